//! How are bits of a field written, as in `NXM_NX_REG0[0..15]`?

use std::fmt::Write;

use super::error::{Fault, Parsed};
use super::names::field_of;
use super::value::ranged;
use crate::mf::{Mf, Subfield};

/// `NAME`, `NAME[]`, `NAME[BIT]` or `NAME[FIRST..LAST]`.
pub(crate) fn read(text: &str) -> Parsed<'_, Subfield> {
    let text = text.trim();
    let Some((name, rest)) = text.split_once('[') else {
        return Ok(Subfield::whole(field_of(text)?));
    };
    let field = field_of(name)?;
    let Some(range) = rest.strip_suffix(']') else {
        return Err(Fault::new(rest, "`]` is expected behind the bits of a field"));
    };
    if range.is_empty() {
        return Ok(Subfield::whole(field));
    }
    let (first, last) = range.split_once("..").unwrap_or((range, range));
    let last_bit = u64::from(field.bits() - 1);
    let what = format!("a bit of {}", field.name());
    let first_n = ranged(first, &what, 0, last_bit)?;
    let last_n = ranged(last, &what, 0, last_bit)?;
    if last_n < first_n {
        return Err(Fault::new(range, "the first bit stands behind the last"));
    }
    Ok(Subfield { field, ofs: first_n as u8, n_bits: (last_n - first_n + 1) as u8 })
}

/// A field's bits in the same notation.
pub(crate) fn show(out: &mut String, sf: Subfield) {
    out.push_str(sf.field.info().nxm);
    if sf.is_whole() {
        out.push_str("[]");
    } else if sf.n_bits == 1 {
        let _ = write!(out, "[{}]", sf.ofs);
    } else {
        let _ = write!(out, "[{}..{}]", sf.ofs, u32::from(sf.ofs) + u32::from(sf.n_bits) - 1);
    }
}

/// A field that actions may change.
pub(crate) fn writable<'a>(text: &'a str, mf: Mf) -> Parsed<'a, ()> {
    if mf.info().writable {
        return Ok(());
    }
    Err(Fault::new(text, format_args!("{} cannot be changed", mf.name())))
}
