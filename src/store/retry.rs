//! When to ask a store again, and when to give up: one policy for all stores.

use std::collections::hash_map::RandomState;
use std::error::Error;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::time::{Instant, sleep};

use super::error::StoreError;

/// The longest wait for a connection.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);
/// A connection that moves no byte for so long has failed.
pub(crate) const IDLE: Duration = Duration::from_secs(15);
/// No attempt begins later than this after the first one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The same where nobody answers at all: a job must not wait for what is switched off.
pub(crate) const PATIENCE_WITHOUT_SERVER: Duration = Duration::from_secs(2);
/// The first pause, which doubles up to [`LONGEST_PAUSE`].
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// See [`FIRST_PAUSE`].
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// The slowest transfer that is worth waiting for, in bytes per second over [`IDLE`].
pub(crate) const SLOWEST: u64 = 10 << 10;

/// Why an attempt failed, and what that means for the next one. The reason holds no URL: one may
/// carry a signature.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) reason: String,
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It may pass, after the pause that the server asked for.
    Passing(Option<Duration>),
    /// Nobody listens there; perhaps the server is just starting.
    NoServer,
    /// Bytes come, but fewer than [`SLOWEST`] allows.
    Slow,
    /// Another credential is needed.
    Denied,
    /// There is no such thing.
    Missing,
    /// What came is not what was asked for.
    Damaged,
    /// It will fail again.
    Lasting,
}

impl Failure {
    pub(crate) fn new(kind: Kind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }

    /// A connection that could not be made, or broke.
    pub(crate) fn connection(error: &(dyn Error + 'static)) -> Self {
        let reason = innermost(error);
        let is_lasting = reason.contains("certificate") || found::<Refusal>(error).is_some();
        let kind = match () {
            () if is_lasting => Kind::Lasting,
            () if is_without_server(error) => Kind::NoServer,
            () => Kind::Passing(None),
        };
        Self::new(kind, reason)
    }

    /// An answer with an error's status. `message` is the server's.
    pub(crate) fn status(code: u16, message: &str) -> Self {
        let kind = match code {
            401 | 403 => Kind::Denied,
            404 => Kind::Missing,
            408 | 425 | 429 | 500..=599 => Kind::Passing(None),
            _ => Kind::Lasting,
        };
        let message = one_line(message);
        let colon = if message.is_empty() { "" } else { ": " };
        Self::new(kind, format!("HTTP status {code}{colon}{message}"))
    }

    /// The error to show. `what` was asked for.
    pub(crate) fn of(self, url: &str, what: &str) -> StoreError {
        let Self { kind, reason } = self;
        let (url, what) = (url.to_owned(), what.to_owned());
        match kind {
            Kind::Denied => StoreError::Denied { url, reason },
            Kind::Missing => StoreError::Missing { url, what },
            Kind::Damaged => StoreError::Damaged { url, what, reason },
            Kind::Slow => StoreError::Slow { url, reason },
            Kind::Passing(_) | Kind::NoServer | Kind::Lasting => {
                StoreError::Unavailable { url, reason }
            }
        }
    }
}

/// Repeats an attempt while it fails in passing, and patience lasts.
pub(crate) async fn retrying<T, F, A>(mut attempt: A) -> Result<T, Failure>
where
    A: FnMut() -> F,
    F: Future<Output = Result<T, Failure>>,
{
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let failure = match attempt().await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let (asked, patience) = match failure.kind {
            Kind::Passing(asked) => (asked, PATIENCE),
            Kind::NoServer => (None, PATIENCE_WITHOUT_SERVER),
            _ => return Err(failure),
        };
        let wait = asked.unwrap_or_else(|| jittered(pause));
        if start.elapsed() + wait > patience {
            return Err(failure);
        }
        sleep(wait).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Gives up on a future that does not come to its end in time.
pub(crate) async fn in_time<T>(
    limit: Duration,
    future: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let silence =
        || Failure::new(Kind::Passing(None), format!("no answer in {} s", limit.as_secs()));
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| Err(silence()))
}

/// The bytes of a body, for a caller that continues where they break off.
pub(crate) fn body(
    pieces: BoxStream<'static, Result<Bytes, Failure>>,
    url: &str,
    what: &str,
) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let (url, what) = (url.to_owned(), what.to_owned());
    paced(pieces)
        .map(move |piece| piece.map_err(|failure: Failure| failure.of(&url, &what)))
        .boxed()
}

/// Reads a document whole, unless it is larger than `limit`: nothing that a store says of its
/// size is relied on.
pub(crate) async fn whole(
    pieces: BoxStream<'static, Result<Bytes, Failure>>,
    limit: u64,
) -> Result<Vec<u8>, Failure> {
    let mut pieces = paced(pieces);
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece?);
        if bytes.len() as u64 > limit {
            let reason = format!("it is larger than {} MiB", limit >> 20);
            return Err(Failure::new(Kind::Damaged, reason));
        }
    }
    Ok(bytes)
}

/// How fast a transfer is. Only time that is spent waiting for the other side is measured.
#[derive(Default)]
pub(crate) struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Notes that so many bytes came after a wait; fails if too few did for too long.
    pub(crate) fn note(&mut self, waited: Duration, bytes: u64) -> Result<(), Failure> {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < IDLE {
            return Ok(());
        }
        let rate = self.bytes / self.waited.as_secs().max(1);
        *self = Self::default();
        if rate >= SLOWEST {
            return Ok(());
        }
        Err(Failure::new(
            Kind::Slow,
            format!("{rate} bytes a second in the last {} s", IDLE.as_secs()),
        ))
    }
}

/// The same pieces; the stream fails when they come too slowly.
fn paced(
    pieces: BoxStream<'static, Result<Bytes, Failure>>,
) -> BoxStream<'static, Result<Bytes, Failure>> {
    stream::try_unfold((pieces, Pace::default()), |(mut pieces, mut pace)| async {
        let start = Instant::now();
        let next = in_time(IDLE, async { pieces.next().await.transpose() }).await?;
        let Some(piece) = next else { return Ok(None) };
        pace.note(start.elapsed(), piece.len() as u64)?;
        Ok(Some((piece, (pieces, pace))))
    })
    .boxed()
}

/// Between half of a pause and all of it, so that many jobs do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    let half = pause / 2;
    half + half.mul_f64(f64::from((random >> 32) as u32) / f64::from(u32::MAX))
}

/// What is not to be tried again, in an error of a library's.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub(crate) String);

/// Whether a server asks to be left alone for longer than anyone waits; says so.
pub(crate) fn left_alone(code: u16, retry_after: Option<&str>) -> Option<Refusal> {
    let seconds: u64 = retry_after?.trim().parse().ok()?;
    (matches!(code, 429 | 500..=599) && seconds > PATIENCE.as_secs())
        .then(|| Refusal(format!("HTTP status {code}: it asks to be left alone for {seconds} s")))
}

/// A cause of this type.
fn found<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut cause = error;
    loop {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        cause = cause.source()?;
    }
}

/// Whether nobody listens at the other end, or no such host is known.
fn is_without_server(error: &(dyn Error + 'static)) -> bool {
    let io = found::<std::io::Error>(error);
    let refused = io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused);
    refused
        || found::<reqwest::Error>(error).is_some_and(|e| {
            // A reset while connecting is a server that is there.
            e.is_connect() && io.is_none_or(|io| !is_reset(io))
        })
}

fn is_reset(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::UnexpectedEof
    )
}

/// What the innermost cause says: the outer ones only repeat what was tried, with the URL.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    match cause.downcast_ref::<reqwest::Error>() {
        Some(error) if error.is_timeout() => "no answer in time".to_owned(),
        Some(_) => "the connection failed".to_owned(),
        None => one_line(&cause.to_string()),
    }
}

/// The beginning of a server's message, which may be a page of HTML.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    async fn attempts(kind: Kind, fail: u32) -> (bool, u32) {
        let count = Cell::new(0);
        let answer = retrying(|| async {
            count.set(count.get() + 1);
            if count.get() <= fail { Err(Failure::new(kind, "no")) } else { Ok(()) }
        })
        .await;
        (answer.is_ok(), count.get())
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_repeated_until_patience_ends() {
        let start = Instant::now();
        assert_eq!(attempts(Kind::Passing(None), 3).await, (true, 4));
        assert!(start.elapsed() < Duration::from_secs(3));
        let start = Instant::now();
        let (done, count) = attempts(Kind::Passing(None), u32::MAX).await;
        assert!(!done && (5..=12).contains(&count), "{count}");
        assert!(start.elapsed() <= PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_not_there_is_given_up_soon() {
        let start = Instant::now();
        let (done, count) = attempts(Kind::NoServer, u32::MAX).await;
        assert!(!done && count >= 3, "{count}");
        assert!(start.elapsed() <= PATIENCE_WITHOUT_SERVER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_given_up() {
        let drip = |bytes: usize| {
            stream::unfold((), move |()| async move {
                sleep(Duration::from_secs(1)).await;
                Some((Ok(Bytes::from(vec![0; bytes])), ()))
            })
            .boxed()
        };
        let start = Instant::now();
        let failure = whole(drip(5), 1 << 20).await.unwrap_err();
        assert_eq!((failure.kind, start.elapsed()), (Kind::Slow, IDLE));
        let start = Instant::now();
        let failure = whole(drip(20_000), 1 << 20).await.unwrap_err();
        assert_eq!(failure.kind, Kind::Damaged, "it is fast enough, and too large");
        assert!(start.elapsed() > IDLE * 3);
    }

    #[test]
    fn nobody_waits_an_hour_for_a_store() {
        assert!(left_alone(503, Some("3600")).unwrap().to_string().contains("3600 s"));
        for (code, after) in [(503, Some("1")), (503, None), (200, Some("3600"))] {
            assert!(left_alone(code, after).is_none(), "{code} {after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_lasts_is_not_repeated() {
        for kind in [Kind::Denied, Kind::Missing, Kind::Damaged, Kind::Slow, Kind::Lasting] {
            assert_eq!(attempts(kind, 1).await, (false, 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_a_server_asks_for_is_kept() {
        let start = Instant::now();
        assert_eq!(attempts(Kind::Passing(Some(Duration::from_secs(4))), 2).await, (true, 3));
        assert_eq!(start.elapsed(), Duration::from_secs(8));
        assert_eq!(attempts(Kind::Passing(Some(Duration::from_mins(1))), 1).await, (false, 1));
    }

    #[test]
    fn pauses_vary_within_bounds() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_secs(2));
            assert!((1.0..=2.0).contains(&pause.as_secs_f64()), "{pause:?}");
        }
    }

    #[test]
    fn messages_are_one_short_line() {
        let failure = Failure::status(503, &"busy\n<html>  ".repeat(100));
        assert!(failure.reason.starts_with("HTTP status 503: busy <html> busy"));
        assert!(failure.reason.len() < 230);
        assert_eq!(Failure::status(503, "").reason, "HTTP status 503");
    }
}
