//! What a registry's answers, and the library's errors, mean for the next attempt.

use std::io;

use oci_client::errors::{OciDistributionError, OciEnvelope, OciErrorCode};
use serde_json::Value;

use crate::store::retry::{self, Failure, Kind};

/// What the library's error means for the next attempt.
pub(crate) fn failure(error: OciDistributionError) -> Failure {
    use OciDistributionError as Oci;
    match error {
        Oci::RequestError(error) => Failure::connection(&error),
        Oci::IoError(error) => Failure::connection(&error),
        Oci::ServerError { code, message, .. } => said(code, &message),
        Oci::UnauthorizedError { .. } => Failure::status(401, ""),
        Oci::AuthenticationFailure(message) => said(401, &message),
        Oci::RegistryError { envelope, .. } => refused(400, &envelope),
        Oci::ImageManifestNotFoundError(_) => Failure::new(Kind::Missing, "there is none"),
        Oci::DigestError(error) => Failure::new(Kind::Damaged, error.to_string()),
        // A list or a token that was cut off.
        Oci::JsonError(_) | Oci::RegistryTokenDecodeError(_) => {
            Failure::new(Kind::Passing(None), "its answer is no JSON")
        }
        error => Failure::new(Kind::Lasting, retry::one_line(&error.to_string())),
    }
}

/// What a registry said with a status, as the specification has it or else in its own words.
pub(crate) fn said(code: u16, message: &str) -> Failure {
    match serde_json::from_str(message) {
        Ok(envelope) => refused(code, &envelope),
        Err(_) => Failure::status(code, message),
    }
}

fn refused(code: u16, envelope: &OciEnvelope) -> Failure {
    let Some(first) = envelope.errors.first() else { return Failure::status(code, "") };
    if first.code == OciErrorCode::DigestInvalid {
        // What we send has been verified: it was damaged on the way, or Docker's registry has mixed it
        // up with another job's upload of the same blob.
        return Failure::new(Kind::Passing(None), retry::one_line(&first.message));
    }
    // The library keeps the status of some errors to itself.
    let code = match &first.code {
        _ if code != 400 => code,
        OciErrorCode::Unauthorized => 401,
        OciErrorCode::Denied => 403,
        OciErrorCode::BlobUnknown
        | OciErrorCode::ManifestUnknown
        | OciErrorCode::NameUnknown
        | OciErrorCode::NotFound => 404,
        OciErrorCode::Toomanyrequests => 429,
        _ => code,
    };
    match cause(&first.detail) {
        Some(cause) => Failure::status(code, &format!("{}: {cause}", first.message)),
        None => Failure::status(code, &first.message),
    }
}

/// Docker's registry leaves it to the detail that its disk is full, or not to be written to: by
/// the number of the system's error.
fn cause(detail: &Value) -> Option<io::Error> {
    let detail = detail.as_object()?;
    match detail.get("Err").and_then(Value::as_i64) {
        Some(number) => Some(io::Error::from_raw_os_error(i32::try_from(number).ok()?)),
        None => detail.values().find_map(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_no_url() {
        let error = OciDistributionError::ServerError {
            code: 503,
            url: "https://host/?signature=hunter2".to_owned(),
            message: "<html>busy</html>".to_owned(),
        };
        let failure = failure(error);
        assert_eq!(failure.reason, "HTTP status 503: <html>busy</html>");
        assert_eq!(failure.kind, Kind::Passing(None));
    }

    #[test]
    fn a_full_disk_is_said() {
        let failure = said(
            500,
            r#"{"errors": [{"code": "UNKNOWN", "message": "unknown error", "detail": {
                "DriverName": "filesystem",
                "Enclosed": {"Op": "mkdir", "Path": "/registry/x", "Err": 28}}}]}"#,
        );
        assert!(failure.reason.contains("unknown error: No space left on device"), "{failure:?}");
        assert_eq!(failure.kind, Kind::Passing(None));
    }

    #[test]
    fn an_upload_that_arrived_damaged_is_repeated() {
        let answer = r#"{"errors": [{"code": "DIGEST_INVALID", "message": "did not match"}]}"#;
        assert_eq!(said(400, answer).kind, Kind::Passing(None));
    }

    #[test]
    fn a_registry_s_words_are_read() {
        let denied = said(403, r#"{"errors": [{"code": "DENIED", "message": "not yours"}]}"#);
        assert_eq!(
            (denied.kind, denied.reason.as_str()),
            (Kind::Denied, "HTTP status 403: not yours")
        );
    }
}
