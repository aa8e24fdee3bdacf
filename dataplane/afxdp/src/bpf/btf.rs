//! What is the type id of a kernel function?
//!
//! Reads the kernel's own type information, once per process. Everything in it is checked before
//! it is used: a kernel with other BTF than this reader knows gives `None`, never a panic.
//! Source: `Documentation/bpf/btf.rst`.

use std::path::Path;
use std::sync::OnceLock;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
const KIND_FUNC: u32 = 12;

/// The BTF id of a function of the running kernel that programs may call, by its name.
pub fn kernel_function(name: &str) -> Option<i32> {
    static BTF: OnceLock<Vec<u8>> = OnceLock::new();
    let btf = BTF.get_or_init(|| std::fs::read(Path::new(VMLINUX)).unwrap_or_default());
    find_function(btf, name)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

/// Bytes behind a type's own 12, by its kind and number of members.
fn trailing(kind: u32, vlen: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 4,                         // int, variable, declaration tag
        2 | 7..=12 | 16 | 18 => 0,                // pointer, forward .. function, float, type tag
        3 => 12,                                  // array
        4 | 5 | 15 | 19 => vlen.checked_mul(12)?, // struct, union, data section, 64-bit enum
        6 | 13 => vlen.checked_mul(8)?,           // enum, function prototype
        _ => return None,
    })
}

fn find_function(btf: &[u8], name: &str) -> Option<i32> {
    let magic = u16::from_ne_bytes([*btf.first()?, *btf.get(1)?]);
    let header = word(btf, 4)? as usize;
    if magic != MAGIC || header < HEADER {
        return None;
    }
    let section = |at: usize| -> Option<&[u8]> {
        let (off, len) = (word(btf, at)? as usize, word(btf, at + 4)? as usize);
        let start = header.checked_add(off)?;
        btf.get(start..start.checked_add(len)?)
    };
    let (types, strings) = (section(8)?, section(16)?);
    let (mut at, mut id) = (0, 1);
    while at < types.len() {
        let (name_off, info) = (word(types, at)? as usize, word(types, at + 4)?);
        let (kind, vlen) = (info >> 24 & 0x1f, info as usize & 0xffff);
        if kind == KIND_FUNC {
            let found = strings.get(name_off..)?;
            if found.get(name.len()) == Some(&0) && found.starts_with(name.as_bytes()) {
                return Some(id);
            }
        }
        at = at.checked_add(12 + trailing(kind, vlen)?)?;
        id += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A BTF image with an int, a struct of two members, and two functions.
    fn image() -> Vec<u8> {
        let strings = b"\0int\0pair\0alpha\0alphabet\0";
        let mut types = Vec::new();
        let mut push = |words: &[u32]| {
            for w in words {
                types.extend_from_slice(&w.to_ne_bytes());
            }
        };
        push(&[1, 1 << 24, 4, 32]);
        push(&[5, 4 << 24 | 2, 8, 0, 1, 0, 0, 1, 32]);
        push(&[16, 12 << 24, 1]); // alphabet
        push(&[10, 12 << 24, 1]); // alpha
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC.to_ne_bytes());
        out.extend_from_slice(&[1, 0]);
        let len = types.len() as u32;
        for w in [HEADER as u32, 0, len, len, strings.len() as u32] {
            out.extend_from_slice(&w.to_ne_bytes());
        }
        out.extend_from_slice(&types);
        out.extend_from_slice(strings);
        out
    }

    #[test]
    fn finds_functions_by_whole_name() {
        let btf = image();
        assert_eq!(find_function(&btf, "alpha"), Some(4));
        assert_eq!(find_function(&btf, "alphabet"), Some(3));
        assert_eq!(find_function(&btf, "alph"), None);
        assert_eq!(find_function(&btf, "int"), None, "not a function");
    }

    #[test]
    fn cut_or_damaged_image_finds_nothing() {
        let btf = image();
        for len in 0..btf.len() {
            let _ = find_function(&btf[..len], "alpha");
        }
        let mut no_magic = btf.clone();
        no_magic[0] ^= 1;
        assert_eq!(find_function(&no_magic, "alpha"), None);
        for at in 0..btf.len() {
            let mut damaged = btf.clone();
            damaged[at] ^= 0xff;
            let _ = find_function(&damaged, "alpha");
        }
    }
}
