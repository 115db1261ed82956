//! The longest time for which a key stays the same, so that updates of base images get in.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A time such as `7d`. Time is cut into pieces of that length, and a key is good for one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxAge {
    seconds: u64,
}

impl MaxAge {
    /// Names the piece of time that `now` is in.
    pub fn bucket(self, now: SystemTime) -> String {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        format!("t{}", since / self.seconds * self.seconds)
    }
}

impl FromStr for MaxAge {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no time (expected a number with m, h, d or w, such as `7d`)");
        let split = text.len().saturating_sub(1);
        let (number, unit) = text.split_at_checked(split).ok_or_else(wrong)?;
        let unit = match unit {
            "m" => 60,
            "h" => 3600,
            "d" => 24 * 3600,
            "w" => 7 * 24 * 3600,
            _ => return Err(wrong()),
        };
        let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
        seconds.filter(|&seconds| seconds > 0).map(|seconds| Self { seconds }).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_rolls_over_after_its_age_and_not_before() {
        let week: MaxAge = "7d".parse().unwrap();
        let at = |seconds| week.bucket(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "t0");
        assert_eq!(at(7 * 24 * 3600 - 1), "t0");
        assert_eq!(at(7 * 24 * 3600), "t604800");
        assert_eq!("1w".parse(), Ok(week));
        assert_eq!("168h".parse(), Ok(week));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in
            ["", "7", "d", "0d", "-1d", "7 d", "7y", "1.5d", "7\u{e4}", "99999999999999999w"]
        {
            let error = text.parse::<MaxAge>().unwrap_err();
            assert!(error.starts_with(&format!("`{text}` is no time")), "{error}");
        }
    }
}
