//! What callgrind wrote down: how many instructions each function took itself.
//!
//! The format is that of valgrind's manual, "Callgrind Format Specification": lines `ob=`, `fn=` say whose
//! costs follow, names are given once with a number and then by the number alone, cost lines are a
//! position and a count, and the one behind `calls=` is what the called function took, which is not
//! counted again.

use std::collections::BTreeMap;

/// Instructions of each function of the program whose file is called so, without what they called. Levels
/// of a recursion are one function.
pub fn by_function(profile: &str, program: &str) -> BTreeMap<String, u64> {
    let (mut objects, mut names) = (Names::default(), Names::default());
    let (mut ours, mut function) = (false, String::new());
    let mut counts = BTreeMap::new();
    let mut of_call = false;
    for line in profile.lines() {
        if let Some(name) = line.strip_prefix("ob=") {
            ours = objects.read(name).rsplit('/').next() == Some(program);
        } else if let Some(name) = line.strip_prefix("cob=") {
            objects.read(name);
        } else if let Some(name) = line.strip_prefix("fn=") {
            function = without_level(names.read(name)).to_owned();
        } else if let Some(name) = line.strip_prefix("cfn=") {
            names.read(name);
        } else if line.starts_with("calls=") {
            of_call = true;
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
            let count = line.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            if !std::mem::take(&mut of_call) && ours && count > 0 {
                *counts.entry(function.clone()).or_insert(0) += count;
            }
        }
    }
    counts
}

/// Names by their numbers.
#[derive(Default)]
struct Names<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Names<'a> {
    /// `(3) name` gives 3 that name; `(3)` is the name that it was given.
    fn read(&mut self, text: &'a str) -> &'a str {
        let Some((number, name)) = text.split_once(')') else { return text };
        let name = name.trim();
        if name.is_empty() {
            return self.0.get(number).copied().unwrap_or("?");
        }
        self.0.insert(number, name);
        name
    }
}

/// `name'2` is the second level of a recursion of `name`.
fn without_level(name: &str) -> &str {
    match name.rsplit_once('\'') {
        Some((base, level)) if level.parse::<u32>().is_ok() => base,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_costs_of_the_program_are_added_up() {
        let profile = "\
version: 1
events: Ir

ob=(1) /bin/membench
fl=(1) a.rs
fn=(1) round
10 5
+2 7
cob=(2) /lib/libc.so.6
cfn=(2) memcpy
calls=3 0
* 300
fi=(2) inlined.rs
4 2
cfn=(3) step'2
calls=1 0
9 90
ob=(2)
fn=(2)
1 300
ob=(1)
fn=(3)
20 30
-1 4
fn=(4) step
8 1
totals: 349
";
        let counts = by_function(profile, "membench");
        let expected = [("round", 14), ("step", 35)].map(|(n, c)| (n.to_owned(), c));
        assert_eq!(counts, BTreeMap::from(expected));
        assert!(by_function(profile, "other").is_empty());
        assert!(by_function("", "membench").is_empty());
    }
}
