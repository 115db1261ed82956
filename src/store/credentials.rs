//! Credentials, as a message that they are refused must call them.

use std::sync::atomic::{AtomicBool, Ordering};

use super::retry::{Failure, Kind};

/// The credentials that a store is asked with.
pub(crate) struct Credentials {
    /// Where they come from: `with …`, or `without …`.
    name: String,
    accepted: AtomicBool,
}

impl Credentials {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), accepted: AtomicBool::new(false) }
    }

    /// Takes notice of what was answered to them; a refusal names them.
    pub(crate) fn judge<T>(&self, answer: Result<T, Failure>) -> Result<T, Failure> {
        let Err(mut failure) = answer else {
            self.accepted.store(true, Ordering::Relaxed);
            return answer;
        };
        if failure.kind == Kind::Denied {
            failure.reason = format!("{}, {}", failure.reason, self.name);
            // What is refused is often an answer without words.
            if self.accepted.load(Ordering::Relaxed) && self.name.starts_with("with ") {
                failure.reason +=
                    ", accepted before: they may have expired, or be good for less than this";
            }
        }
        Err(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_good_may_have_expired() {
        let credentials = Credentials::new("with AWS_ACCESS_KEY_ID from the environment");
        let denied = || Err::<(), _>(Failure::status(403, ""));
        let first = credentials.judge(denied()).unwrap_err().reason;
        assert_eq!(first, "HTTP status 403, with AWS_ACCESS_KEY_ID from the environment");
        credentials.judge(Ok(())).unwrap();
        let later = credentials.judge(denied()).unwrap_err().reason;
        assert!(later.starts_with(&first) && later.contains("may have expired"), "{later}");
        let none = Credentials::new("without credentials");
        none.judge(Ok(())).unwrap();
        let refused = none.judge(denied()).unwrap_err().reason;
        assert_eq!(refused, "HTTP status 403, without credentials");
        let down = credentials.judge(Err::<(), _>(Failure::status(503, ""))).unwrap_err();
        assert_eq!(down.reason, "HTTP status 503");
    }
}
