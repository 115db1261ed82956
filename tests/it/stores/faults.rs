//! A proxy on loopback that makes a server fail as networks and servers do, by a plan.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::sleep;

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The connection is closed before anything is answered.
    Closed,
    /// The server answers with this status.
    Status { code: u16, retry_after: Option<u32> },
    /// The server refuses, in these words.
    Refused { code: u16, words: &'static str },
    /// The connection is reset when so much of the answer has passed.
    Reset { after: usize },
    /// The connection ends in order, but too early.
    Truncated { after: usize },
    /// The answer comes in small pieces with pauses between them.
    Slow { pause: Duration },
    /// The answer is 1.5 GB of nothing.
    Flood,
    /// The answer is as large, and comes a few bytes at a time.
    Drip,
    /// The answer names another server, by its address.
    Redirect { code: u16, to: &'static str },
}

/// The length of an answer that nobody should read to its end.
const ENDLESS: u64 = 1_500_000_000;

/// A proxy. Each connection carries one request.
pub(crate) struct Proxy {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
    flooded: Arc<AtomicU64>,
    _runtime: Runtime,
}

impl Proxy {
    /// Starts a proxy before `server`. The plan is given the number of a request, from 0 on, and
    /// its first line.
    pub(crate) fn start(
        server: &str,
        plan: impl Fn(usize, &str) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        let runtime = Runtime::new().expect("threads");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let flooded = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&flooded);
        let (seen, server, plan) = (Arc::clone(&requests), server.to_owned(), Arc::new(plan));
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (seen, server, plan) = (Arc::clone(&seen), server.clone(), Arc::clone(&plan));
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let plan = |line: &str| {
                        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                        seen.push(line.to_owned());
                        plan(seen.len() - 1, line)
                    };
                    // A connection that fails is what this is for.
                    let _ = serve(client, &server, plan, &count).await;
                });
            }
        });
        Self { address, requests, flooded, _runtime: runtime }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// How many bytes of endless answers were taken.
    pub(crate) fn flooded(&self) -> u64 {
        self.flooded.load(Ordering::Relaxed)
    }

    /// The first lines of all requests until now.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(
    mut client: TcpStream,
    server: &str,
    plan: impl Fn(&str) -> Option<Fault>,
    flooded: &AtomicU64,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let end = loop {
        let mut buffer = [0; 4096];
        let count = client.read(&mut buffer).await?;
        head.extend_from_slice(&buffer[..count]);
        // An attempt to speak TLS is none of the requests.
        if count == 0 || !head[0].is_ascii_alphabetic() {
            return Ok(());
        }
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
    };
    let text = String::from_utf8_lossy(&head[..end]).into_owned();
    let (line, headers) = text.split_once("\r\n").unwrap_or((&text, ""));
    let fault = plan(line);
    if let Some(Fault::Closed) = fault {
        return Ok(());
    }
    if let Some(Fault::Flood | Fault::Drip) = fault {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {ENDLESS}\r\nETag: \"x\"\r\n\
             Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n\r\n"
        );
        client.write_all(answer.as_bytes()).await?;
        loop {
            let (length, pause) = match fault {
                Some(Fault::Drip) => (5, Duration::from_secs(1)),
                _ => (1 << 16, Duration::ZERO),
            };
            client.write_all(&vec![b' '; length]).await?;
            flooded.fetch_add(length as u64, Ordering::Relaxed);
            sleep(pause).await;
        }
    }
    let body = head.split_off(end);
    let answer = match fault {
        Some(Fault::Status { code, retry_after: None }) => Some((code, String::new(), "")),
        Some(Fault::Status { code, retry_after: Some(after) }) => {
            Some((code, format!("Retry-After: {after}\r\n"), ""))
        }
        Some(Fault::Redirect { code, to }) => {
            let path = line.split(' ').nth(1).unwrap_or_default();
            Some((code, format!("Location: http://{to}{path}\r\n"), ""))
        }
        // An answer to HEAD is a head.
        Some(Fault::Refused { code, .. }) if line.starts_with("HEAD") => {
            Some((code, String::new(), ""))
        }
        Some(Fault::Refused { code, words }) => Some((code, String::new(), words)),
        _ => None,
    };
    if let Some((code, more, words)) = answer {
        let length = headers.lines().find_map(|header| {
            let (name, value) = header.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<u64>().ok())?
        });
        let came = (body.len() - 4) as u64;
        let rest = length.unwrap_or_default().saturating_sub(came);
        copy(&mut (&mut client).take(rest), &mut tokio::io::sink()).await?;
        let length = words.len();
        let answer = format!(
            "HTTP/1.1 {code} Fault\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n\
             {words}"
        );
        client.write_all(answer.as_bytes()).await?;
        return client.shutdown().await;
    }
    let mut server = TcpStream::connect(server).await?;
    server.write_all(&head).await?;
    server.write_all(b"\r\nConnection: close").await?;
    server.write_all(&body).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let answer = async {
        match fault {
            Some(Fault::Reset { after } | Fault::Truncated { after }) => {
                copy(&mut (&mut from_server).take(after as u64), &mut to_client).await?;
            }
            Some(Fault::Slow { pause }) => {
                let mut buffer = [0; 64];
                loop {
                    let count = from_server.read(&mut buffer).await?;
                    if count == 0 {
                        break;
                    }
                    to_client.write_all(&buffer[..count]).await?;
                    sleep(pause).await;
                }
            }
            _ => {
                copy(&mut from_server, &mut to_client).await?;
            }
        }
        Ok::<(), std::io::Error>(())
    };
    let question = async {
        copy(&mut from_client, &mut to_server).await?;
        // The server's answer decides when it is over.
        std::future::pending::<std::io::Result<()>>().await
    };
    tokio::select! {
        done = answer => done,
        done = question => done,
    }?;
    if let Some(Fault::Reset { .. }) = fault {
        client.set_zero_linger()?;
        return Ok(());
    }
    client.shutdown().await
}
