//! Where and why is a text not what it should be?
//!
//! Parsers work on slices of the text that they were given and name the slice that is wrong, as a
//! [`Fault`]. At the end the slice's place in the whole text gives line and column.

use std::fmt::{self, Display};

/// Characters of the wrong text that are shown.
const SHOWN: usize = 60;

/// What is wrong with which part of the text.
#[derive(Debug)]
pub(crate) struct Fault<'a> {
    at: &'a str,
    message: String,
    hint: Option<String>,
}

/// The result of a parser.
pub(crate) type Parsed<'a, T> = Result<T, Box<Fault<'a>>>;

impl<'a> Fault<'a> {
    /// `at` must be a slice of the text that is parsed.
    pub(crate) fn new(at: &'a str, message: impl Display) -> Box<Fault<'a>> {
        Box::new(Fault { at, message: message.to_string(), hint: None })
    }

    /// Add what would help.
    pub(crate) fn hint(mut self: Box<Self>, hint: impl Display) -> Box<Fault<'a>> {
        self.hint = Some(hint.to_string());
        self
    }

    /// Find the place in the whole text.
    #[allow(clippy::boxed_local)] // Faults are boxed everywhere, to keep results small.
    pub(crate) fn locate(self: Box<Self>, text: &str) -> TextError {
        // Both are parts of one allocation, so their addresses tell the distance.
        let offset = (self.at.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let found = self.at.trim_end().chars().take(SHOWN + 1).collect::<String>();
        let found = match found.char_indices().nth(SHOWN) {
            Some((i, _)) => format!("{}...", &found[..i]),
            None => found,
        };
        TextError {
            line: before.bytes().filter(|b| *b == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            found: found.into(),
            message: self.message.into(),
            hint: self.hint.map(Into::into),
        }
    }
}

/// Why a text is refused: where, what stands there, what is wrong with it, what would help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What stands there; empty at the end of the text.
    pub found: Box<str>,
    /// What is wrong, or what was expected.
    pub message: Box<str>,
    /// What would help.
    pub hint: Option<Box<str>>,
}

impl Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
        if !self.found.is_empty() {
            write!(f, "`{}`: ", self.found)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for TextError {}

/// The known name that is most like `word`, if any is like it.
pub(crate) fn nearest<'n>(word: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let word = word.as_bytes();
    if word.len() > 40 {
        return None;
    }
    let limit = (word.len() / 3).clamp(1, 3);
    names
        .into_iter()
        .filter(|n| n.len().abs_diff(word.len()) <= limit)
        .map(|n| (distance(word, n.as_bytes()), n))
        .filter(|(d, _)| *d <= limit)
        .min_by_key(|(d, _)| *d)
        .map(|(_, n)| n)
}

/// How many letters must be put in, taken out, changed or swapped with the next.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let width = b.len() + 1;
    let mut rows = vec![0; (a.len() + 1) * width];
    for i in 0..=a.len() {
        for j in 0..width {
            rows[i * width + j] = if i == 0 || j == 0 {
                i + j
            } else {
                let same = usize::from(!a[i - 1].eq_ignore_ascii_case(&b[j - 1]));
                let up = rows[(i - 1) * width + j] + 1;
                let left = rows[i * width + j - 1] + 1;
                let mut d = up.min(left).min(rows[(i - 1) * width + j - 1] + same);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    d = d.min(rows[(i - 2) * width + j - 2] + 1);
                }
                d
            };
        }
    }
    rows[rows.len() - 1]
}

/// A fault for an unknown word, with the nearest known one.
pub(crate) fn unknown<'a, 'n>(
    at: &'a str,
    what: &str,
    word: &str,
    names: impl IntoIterator<Item = &'n str>,
) -> Box<Fault<'a>> {
    let fault = Fault::new(at, format_args!("unknown {what}"));
    match nearest(word, names) {
        Some(n) => fault.hint(format_args!("did you mean `{n}`?")),
        None => fault,
    }
}
