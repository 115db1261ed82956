//! The time of day in RFC 3339, for archives.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, in UTC with seconds; `SOURCE_DATE_EPOCH` is used instead if it is set.
pub fn timestamp() -> String {
    let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|s| s.parse().ok());
    let now = fixed.map_or_else(SystemTime::now, |s| UNIX_EPOCH + Duration::from_secs(s));
    humantime::format_rfc3339_seconds(now).to_string()
}
