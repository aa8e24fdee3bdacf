//! What went wrong, for the person who asked: one sentence that names the thing and the value, and,
//! where there is one, a hint at what to do instead. Knows nothing of transport or terminals.

use serde::{Deserialize, Serialize};

/// What an error is about, for programs. People read the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The thing named does not exist (bridge, port, interface, key, method).
    NotFound,
    /// The thing to be made exists already.
    Exists,
    /// A value, a name or a combination of them is not acceptable.
    Invalid,
    /// Known, but not offered by this switch.
    Unsupported,
    /// The system refused: permission, memory, limits.
    System,
    /// The request is not one that the daemon understands.
    Protocol,
    /// The daemon does not answer.
    Unreachable,
    /// A defect of the switch.
    Internal,
}

/// An error with its message and an optional hint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct CtlError {
    pub kind: ErrorKind,
    /// One sentence without a full stop: what, where, and what was expected.
    pub message: String,
    /// What to do instead, such as `did you mean "br-int"?`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl CtlError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    pub fn exists(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Exists, message)
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    pub fn system(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::System, message)
    }

    pub fn protocol(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Protocol, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds `did you mean "X"?` when one of `candidates` is close to `given`.
    #[must_use]
    pub fn suggest<'a>(self, given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Self {
        match crate::suggest::closest(given, candidates) {
            Some(name) => self.with_hint(format!("did you mean \"{name}\"?")),
            None => self,
        }
    }
}

/// `text` in double quotes with control characters escaped, cut at 64 characters, for use in messages.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for (i, c) in text.chars().enumerate() {
        if i == 64 {
            out.push('…');
            break;
        }
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_hides_control_characters_and_is_bounded() {
        assert_eq!(quoted("a\"b\n\u{1b}[31m"), "\"a\\\"b\\n\\u{1b}[31m\"");
        assert_eq!(quoted(&"x".repeat(1000)).chars().count(), 67);
    }

    #[test]
    fn suggestion_becomes_the_hint() {
        let e = CtlError::not_found("no bridge \"brint\"").suggest("brint", ["br-int", "br-tun"]);
        assert_eq!(e.hint.as_deref(), Some("did you mean \"br-int\"?"));
        assert_eq!(CtlError::not_found("x").suggest("qqqq", ["br-int"]).hint, None);
    }
}
