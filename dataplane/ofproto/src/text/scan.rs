//! How is a flow's text cut into words?
//!
//! Flows, actions and groups are lists of items, parted by commas or blanks: `key`, `key=value`,
//! `key:value` or `key(value)`. Parentheses nest, and what is inside them or inside double quotes
//! is not cut.

use super::error::{Fault, Parsed};

/// One item of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item<'a> {
    /// The word in front.
    pub(crate) key: &'a str,
    /// What stands behind it, without `=`, `:` or the parentheses; the empty end of the item if
    /// there is nothing.
    pub(crate) value: &'a str,
    /// How the value was given.
    pub(crate) form: Form,
    /// All of it.
    pub(crate) all: &'a str,
}

/// How an item's value is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `key`
    Bare,
    /// `key=value`
    Equals,
    /// `key:value`
    Colon,
    /// `key(value)`, perhaps with more behind it.
    Parens,
}

impl<'a> Item<'a> {
    /// The value, which must be there.
    pub(crate) fn need(&self, what: &str) -> Parsed<'a, &'a str> {
        if self.value.is_empty() {
            return Err(Fault::new(self.all, format_args!("{what} is missing")));
        }
        Ok(self.value)
    }

    /// Refuse a value.
    pub(crate) fn bare(&self) -> Parsed<'a, ()> {
        match self.form {
            Form::Bare => Ok(()),
            _ => Err(Fault::new(self.value, format_args!("{} takes no value", self.key))),
        }
    }
}

/// Whether a byte parts items.
#[inline]
pub(crate) fn is_separator(b: u8) -> bool {
    matches!(b, b',' | b' ' | b'\t' | b'\r' | b'\n')
}

/// The items of a list.
#[derive(Clone, Debug)]
pub(crate) struct Items<'a> {
    rest: &'a str,
}

impl<'a> Items<'a> {
    pub(crate) fn new(text: &'a str) -> Items<'a> {
        Items { rest: text }
    }

    /// Everything that was not read yet.
    pub(crate) fn rest(&self) -> &'a str {
        self.rest
    }

    /// The next item; `None` at the end.
    #[allow(clippy::should_implement_trait)]
    pub(crate) fn next(&mut self) -> Parsed<'a, Option<Item<'a>>> {
        let text = self.rest.trim_start_matches(|c: char| u8::try_from(c).is_ok_and(is_separator));
        let bytes = text.as_bytes();
        if bytes.is_empty() {
            self.rest = text;
            return Ok(None);
        }
        let key_end = key_end(text)?;
        let key = &text[..key_end];
        let (form, from) = match bytes.get(key_end) {
            Some(b'=') => (Form::Equals, key_end + 1),
            Some(b':') => (Form::Colon, key_end + 1),
            Some(b'(') => (Form::Parens, key_end + 1),
            _ => (Form::Bare, key_end),
        };
        let end = match form {
            Form::Bare => key_end,
            _ => value_end(text, if form == Form::Parens { key_end } else { from })?,
        };
        let all = &text[..end];
        let value = match form {
            Form::Parens if all.ends_with(')') => &text[from..end - 1],
            _ => &text[from..end],
        };
        self.rest = &text[end..];
        Ok(Some(Item { key, value, form, all }))
    }
}

/// Where the key ends: a quoted word is one.
fn key_end(text: &str) -> Parsed<'_, usize> {
    let bytes = text.as_bytes();
    if bytes[0] == b'"' {
        return quoted_end(text, 0);
    }
    let stop = |b: &u8| is_separator(*b) || matches!(*b, b'=' | b':' | b'(');
    Ok(bytes.iter().position(stop).unwrap_or(bytes.len()))
}

/// The end of the quoted word that starts at `from`.
fn quoted_end(text: &str, from: usize) -> Parsed<'_, usize> {
    let bytes = text.as_bytes();
    let mut i = from + 1;
    while let Some(b) = bytes.get(i) {
        match b {
            b'\\' => i += 1,
            b'"' => return Ok(i + 1),
            _ => {}
        }
        i += 1;
    }
    Err(Fault::new(&text[from..], "the closing quote is missing"))
}

/// Where the value that starts at `from` ends: at a separator outside all parentheses.
fn value_end(text: &str, from: usize) -> Parsed<'_, usize> {
    let bytes = text.as_bytes();
    let mut depth = 0u32;
    let mut outermost = from;
    let mut i = from;
    while let Some(b) = bytes.get(i) {
        match b {
            b'"' => {
                i = quoted_end(text, i)?;
                continue;
            }
            b'(' => {
                if depth == 0 {
                    outermost = i;
                }
                depth += 1;
            }
            b')' if depth == 0 => {
                return Err(Fault::new(&text[i..], "this parenthesis was not opened"));
            }
            b')' => depth -= 1,
            b if depth == 0 && is_separator(*b) => return Ok(i),
            _ => {}
        }
        i += 1;
    }
    if depth > 0 {
        return Err(Fault::new(&text[outermost..], "the closing parenthesis is missing"));
    }
    Ok(bytes.len())
}

/// Cut at the last `->` outside parentheses: what is given, and to what.
pub(crate) fn arrow<'a>(text: &'a str) -> Parsed<'a, (&'a str, &'a str)> {
    match text.rsplit_once("->") {
        Some((from, to)) if !to.trim().is_empty() => Ok((from.trim(), to.trim())),
        Some((_, to)) => Err(Fault::new(to, "the field behind `->` is missing")),
        None => Err(Fault::new(text, "`->` and a field are missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Vec<(&str, &str, Form)> {
        let mut scan = Items::new(text);
        let mut out = Vec::new();
        while let Some(i) = scan.next().unwrap() {
            out.push((i.key, i.value, i.form));
        }
        out
    }

    #[test]
    fn cuts_lists() {
        assert_eq!(
            items(" a, b=1 c:2->d(e,f),g(h(i),j),,k()"),
            [
                ("a", "", Form::Bare),
                ("b", "1", Form::Equals),
                ("c", "2->d(e,f)", Form::Colon),
                ("g", "h(i),j", Form::Parens),
                ("k", "", Form::Parens),
            ]
        );
        assert_eq!(
            items("\"a,b\":1,in_port=\"x(\""),
            [("\"a,b\"", "1", Form::Colon), ("in_port", "\"x(\"", Form::Equals),]
        );
    }

    #[test]
    fn says_what_is_not_closed() {
        for (text, column) in [("a(b", 2), ("a,b(c)d)", 8), ("a=\"b", 3), ("c(d(e)", 2)] {
            let mut scan = Items::new(text);
            let fault = loop {
                match scan.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{text} was taken"),
                    Err(f) => break f.locate(text),
                }
            };
            assert_eq!(fault.column, column, "{fault}");
        }
    }
}
