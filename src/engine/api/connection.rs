//! The Docker API through the engine's socket, or through `docker system dial-stdio`, which connects
//! to whatever engine the user's client is configured for. Image archives are streamed in both
//! directions.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::io::{self, Read};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::API_DEFAULT_VERSION;
use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::models::{ImageInspect, ImageSummary, SystemInfo, SystemVersion};
use bollard::query_parameters::{
    ImportImageOptionsBuilder, ListImagesOptionsBuilder, PushImageOptionsBuilder,
    RemoveImageOptions, TagImageOptionsBuilder,
};
use bytes::Bytes;
use docker_credential::DockerCredential;
use futures_util::future::join_all;
use futures_util::{Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::engine::client::Client;
use crate::engine::error::EngineError;

/// An export or a load may take hours; bollard's clock runs until the response begins.
const TRANSFER_TIMEOUT_SECONDS: u64 = 24 * 3600;
/// How long the engine may take to say that it is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the engine may take to answer a question. It may be busy.
const QUESTION_TIMEOUT: Duration = Duration::from_mins(1);
/// How long the engine is waited for before it is asked whether it is still there. It may be silent
/// for long: it first writes an image to its disk, and then streams it.
const SILENCE: Duration = Duration::from_secs(5);
/// How long it may take to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the engine may take to list its build cache. Old ones measure all else besides.
const USAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// The minor version of the API up to which the build cache is listed record by record unasked.
const LISTS_BUILD_CACHE: usize = 44;
/// Chunks that wait between the network and a reader; each has some tens of KiB.
pub(crate) const CHUNKS_AHEAD: usize = 64;

/// How long the engine may say nothing while it pushes.
const PUSH_IDLE: Duration = Duration::from_secs(30);
/// How long a connection may take until it can be used again, before another is dialled.
const RELEASE: Duration = Duration::from_millis(20);

/// A connection to an engine.
#[derive(Clone, Debug)]
pub struct Connection {
    runtime: Arc<Runtime>,
    api: bollard::Docker,
    watch: Watch,
}

impl Connection {
    /// Connects, and agrees on an API version.
    pub fn open(client: &Client) -> Result<Self, EngineError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(EngineError::io("start threads"))?;
        let line = Line { client: client.clone(), idle: Arc::default() };
        let api = bollard::Docker::connect_with_custom_transport(
            move |request| line.clone().send(request),
            Some("http://docker"),
            TRANSFER_TIMEOUT_SECONDS,
            API_DEFAULT_VERSION,
        )
        .map_err(|e| EngineError::Unreachable(e.to_string()))?;
        let negotiated =
            runtime.block_on(async { timeout(CONNECT_TIMEOUT, api.negotiate_version()).await });
        let api = negotiated
            .map_err(|_| EngineError::NoAnswer {
                to: "the first question to the Docker engine".to_owned(),
                waited: CONNECT_TIMEOUT,
            })?
            .map_err(|e| EngineError::Unreachable(e.to_string()))?;
        let watch = Watch { client: client.clone(), is_gone: Arc::default() };
        Ok(Self { runtime: Arc::new(runtime), api, watch })
    }

    /// Whether the engine answers at all.
    pub(crate) fn answers(&self) -> bool {
        self.runtime.block_on(self.watch.sees_engine())
    }

    /// Waits for the answer to a question.
    fn ask<T>(&self, question: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let question = self.watch.over(question);
        let answer = self.runtime.block_on(async { timeout(QUESTION_TIMEOUT, question).await });
        answer.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
    }

    /// The engine's own description.
    pub fn info(&self) -> Result<SystemInfo, EngineError> {
        self.ask(self.api.info()).map_err(|e| EngineError::failed("describe itself", e))
    }

    /// The engine's version, and those of its parts.
    pub fn version(&self) -> Result<SystemVersion, EngineError> {
        self.ask(self.api.version()).map_err(|e| EngineError::failed("say its version", e))
    }

    /// Looks at an image by a name, an ID or the start of one; `None` if there is none.
    pub fn image(&self, name: &str) -> Result<Option<ImageInspect>, EngineError> {
        match self.ask(self.api.inspect_image(name)) {
            Ok(image) => Ok(Some(image)),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(e) => Err(EngineError::failed(format!("look at image `{name}`"), e)),
        }
    }

    /// Whether the engine asks clients to build with BuildKit: `Builder-Version` of its answer to a
    /// ping.
    pub fn builds_with_buildkit(&self) -> bool {
        let answer = self.runtime.block_on(ping(&self.watch.client, CONNECT_TIMEOUT));
        answer.is_some_and(|a| a.headers().get("Builder-Version").is_some_and(|v| v == "2"))
    }

    /// The names of images that match one of the patterns, such as `name:*`.
    pub fn names(&self, patterns: &[&str]) -> Result<Vec<String>, EngineError> {
        let filters = HashMap::from([("reference", patterns.to_vec())]);
        let options = ListImagesOptionsBuilder::default().filters(&filters).build();
        let images = self
            .ask(self.api.list_images(Some(options)))
            .map_err(|e| EngineError::failed("list its images", e))?;
        Ok(images.into_iter().flat_map(|image| image.repo_tags).collect())
    }

    /// The IDs of what the engine's own builder has in its cache.
    pub fn builder_cache(&self) -> Result<BTreeSet<String>, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Usage {
            #[serde(default)]
            build_cache: Option<Vec<Record>>,
        }
        #[derive(Deserialize)]
        struct Record {
            #[serde(rename = "ID")]
            id: String,
        }
        let failed = |e: &dyn Display| EngineError::failed("list its build cache", e);
        // Later versions of the API answer in another form.
        let version = LISTS_BUILD_CACHE.min(self.api.client_version().minor_version);
        let path = format!("/v1.{version}/system/df?type=build-cache");
        let line = Line::<String> { client: self.watch.client.clone(), idle: Arc::default() };
        let request = Request::get(path).body(String::new()).map_err(|e| failed(&e))?;
        let answer = self.runtime.block_on(async {
            let answer = async {
                let body = line.send(request).await?.into_body();
                Ok::<_, Error>(body.collect().await?.to_bytes())
            };
            timeout(USAGE_TIMEOUT, answer).await
        });
        let json = answer.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        let usage: Usage = serde_json::from_slice(&json).map_err(|e| failed(&e))?;
        Ok(usage.build_cache.into_iter().flatten().map(|record| record.id).collect())
    }

    /// The entries of an image's history, each as the builder wrote it down.
    pub(crate) fn history(&self, name: &str) -> Result<Vec<String>, EngineError> {
        let entries = self.ask(self.api.image_history(name));
        let entries =
            entries.map_err(|e| EngineError::failed(format!("show the history of `{name}`"), e))?;
        Ok(entries.into_iter().map(|entry| entry.created_by).collect())
    }

    /// The digest that a registry has behind a name, as the engine finds it with the user's
    /// credentials. The error is for a message.
    pub(crate) fn registry_digest(&self, name: &str, wait: Duration) -> Result<String, String> {
        let answer = self.api.inspect_registry_image(name, credentials(name));
        match self.runtime.block_on(async { timeout(wait, answer).await }) {
            Err(_) => Err("it does not answer".to_owned()),
            Ok(Err(Error::DockerResponseServerError { message, .. })) => Err(message),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(answer)) => {
                answer.descriptor.digest.ok_or_else(|| "it names no digest".to_owned())
            }
        }
    }

    /// All images, those between two steps of the classic builder as well.
    pub fn images(&self) -> Result<Vec<ImageSummary>, EngineError> {
        let options = ListImagesOptionsBuilder::default().all(true).build();
        self.ask(self.api.list_images(Some(options)))
            .map_err(|e| EngineError::failed("list its images", e))
    }

    /// Removes a name, and what it alone holds.
    pub fn remove_image(&self, name: &str) -> Result<(), EngineError> {
        let options = None::<RemoveImageOptions>;
        match self.ask(self.api.remove_image(name, options, None)) {
            Ok(_) => Ok(()),
            Err(e) => Err(EngineError::failed(format!("remove image `{name}`"), e)),
        }
    }

    /// Pushes images to a registry's repository, each by a name that it has and a tag there, which it
    /// has no longer than that. `tick` is called while it goes on.
    pub fn push(
        &self,
        repository: &str,
        images: &[(&str, &str)],
        tick: &dyn Fn(),
    ) -> Result<(), EngineError> {
        let pushes = images.iter().map(async |&(image, tag)| {
            let options = TagImageOptionsBuilder::default().repo(repository).tag(tag).build();
            self.api.tag_image(image, Some(options)).await?;
            let pushed = self.push_as(repository, tag, tick).await;
            let name = format!("{repository}:{tag}");
            self.api.remove_image(&name, None::<RemoveImageOptions>, None).await?;
            pushed
        });
        // Each to its end, which takes its name away.
        let done = self.runtime.block_on(join_all(pushes));
        done.into_iter()
            .collect::<Result<(), Error>>()
            .map_err(|e| EngineError::failed("push images", e))
    }

    async fn push_as(&self, repository: &str, tag: &str, tick: &dyn Fn()) -> Result<(), Error> {
        let options = PushImageOptionsBuilder::default().tag(tag).build();
        let answers = self.api.push_image(repository, Some(options), None);
        tokio::pin!(answers);
        loop {
            tick();
            match timeout(PUSH_IDLE, answers.next()).await {
                Ok(Some(answer)) => answer?,
                Ok(None) => return Ok(()),
                Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            };
        }
    }

    /// What requests run on.
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Streams `docker save` of these images: a tar.
    pub fn export(&self, names: &[&str]) -> impl Read + Send + use<> {
        let (api, watch) = (self.api.clone(), self.watch.clone());
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        self.runtime.spawn(async move {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let stream = api.export_images(&names);
            tokio::pin!(stream);
            loop {
                let next = watch.over(async { Ok(stream.next().await) }).await;
                let Some(chunk) = next.unwrap_or_else(|error| Some(Err(error))) else { break };
                let failed = chunk.is_err();
                if sender.send(chunk.map_err(io::Error::other)).await.is_err() || failed {
                    break;
                }
            }
        });
        ChannelReader::new(receiver)
    }

    /// Streams a tar into `docker load`.
    pub fn load(
        &self,
        chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), EngineError> {
        self.runtime.block_on(async {
            let options = ImportImageOptionsBuilder::default().quiet(true).build();
            let answers = self.api.import_image_stream(options, chunks, None);
            tokio::pin!(answers);
            let failed = |e| EngineError::failed("load images", e);
            let mut next = async || self.watch.over(async { Ok(answers.next().await) }).await;
            while let Some(answer) = next().await.map_err(failed)? {
                answer.map_err(failed)?;
            }
            Ok(())
        })
    }
}

/// Says hello, without an answer after this time or if nobody is there.
async fn ping(client: &Client, limit: Duration) -> Option<Response<Incoming>> {
    let line = Line::<String> { client: client.clone(), idle: Arc::default() };
    let request = Request::head("/_ping").body(String::new()).ok()?;
    timeout(limit, line.send(request)).await.ok()?.ok()
}

/// Tells an engine that is busy from one that is gone.
#[derive(Clone, Debug)]
struct Watch {
    client: Client,
    /// Whether it has not answered: nobody waits for that twice.
    is_gone: Arc<AtomicBool>,
}

impl Watch {
    /// Whether the engine answers at all.
    async fn sees_engine(&self) -> bool {
        if self.is_gone.load(Ordering::Relaxed) {
            return false;
        }
        let answers = ping(&self.client, PING_TIMEOUT).await.is_some();
        self.is_gone.fetch_or(!answers, Ordering::Relaxed);
        answers
    }

    /// Waits for an engine as long as it answers others.
    async fn over<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::pin!(work);
        while !self.is_gone.load(Ordering::Relaxed) {
            match timeout(SILENCE, &mut work).await {
                Ok(done) => return done,
                Err(_) => self.sees_engine().await,
            };
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "it answers no more").into())
    }
}

/// Where requests with bodies of type `B` go out.
struct Line<B> {
    client: Client,
    /// The last connection, which can be used again once its answer has been read: each start of
    /// the client takes a while.
    idle: Arc<Mutex<Option<SendRequest<B>>>>,
}

impl<B> Clone for Line<B> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), idle: Arc::clone(&self.idle) }
    }
}

impl<B> Line<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    async fn send(self, request: Request<B>) -> Result<Response<Incoming>, Error> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = idle().take();
        if let Some(sender) = &mut last
            && !matches!(timeout(RELEASE, sender.ready()).await, Ok(Ok(())))
        {
            last = None;
        }
        let mut sender = match last {
            Some(sender) => sender,
            None => self.dial().await?,
        };
        let (mut parts, body) = request.into_parts();
        parts.headers.insert(HOST, HeaderValue::from_static("docker"));
        // A server wants the path only.
        if let Some(path) = parts.uri.path_and_query().cloned() {
            parts.uri = path.into();
        }
        let answer = sender.send_request(Request::from_parts(parts, body)).await?;
        *idle() = Some(sender);
        Ok(answer)
    }

    async fn dial(&self) -> Result<SendRequest<B>, Error> {
        if let Some(socket) = self.client.socket() {
            return speak(UnixStream::connect(socket).await?, ()).await;
        }
        let command = self.client.command(["system", "dial-stdio"]);
        let mut child = tokio::process::Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // What it would say, `docker version` says as well.
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("`docker system dial-stdio` has no pipes").into());
        };
        speak(tokio::io::join(output, input), child).await
    }
}

/// Speaks HTTP over a stream; what it needs is held as long as answers are being read.
async fn speak<B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    needed: impl Send + 'static,
) -> Result<SendRequest<B>, Error>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        let _needed = needed;
        let _ = connection.await;
    });
    Ok(sender)
}

/// What the client's configuration has for the registry of an image.
fn credentials(name: &str) -> Option<DockerCredentials> {
    let domain = name.split_once('/').map(|(domain, _)| domain);
    let server = domain.filter(|d| d.contains(['.', ':']) || *d == "localhost");
    let server = server.unwrap_or("https://index.docker.io/v1/");
    let mut found = DockerCredentials {
        serveraddress: Some(server.to_owned()),
        ..DockerCredentials::default()
    };
    match docker_credential::get_credential(server).ok()? {
        DockerCredential::UsernamePassword(user, password) => {
            found.username = Some(user);
            found.password = Some(password);
        }
        DockerCredential::IdentityToken(token) => found.identitytoken = Some(token),
    }
    Some(found)
}

/// Reads what a task of the runtime sends.
pub(crate) struct ChannelReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
}

impl ChannelReader {
    pub(crate) fn new(receiver: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { receiver, chunk: Bytes::new() }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.chunk.len());
        buffer[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}
