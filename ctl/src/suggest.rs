//! Which known name did the user probably mean? Edit distance with transpositions over short names.

/// Longest name compared, in characters: both sides beyond it are not compared at all.
const LONGEST: usize = 128;

/// The candidate closest to `given`, if it is close enough to be worth saying: at most a third of the
/// characters differ, or one is the beginning of the other. Ties go to the earlier candidate.
pub fn closest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given_chars: Vec<char> = given.chars().flat_map(char::to_lowercase).collect();
    if given_chars.is_empty() || given_chars.len() > LONGEST {
        return None;
    }
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let chars: Vec<char> = candidate.chars().flat_map(char::to_lowercase).collect();
        if chars.is_empty() || chars.len() > LONGEST || candidate == given {
            continue;
        }
        let distance = distance(&given_chars, &chars);
        let allowed = given_chars.len().max(chars.len()).div_ceil(3);
        let is_prefix = given_chars.len() >= 3 && chars.starts_with(&given_chars);
        if (distance <= allowed || is_prefix) && best.is_none_or(|(d, _)| distance < d) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, name)| name)
}

/// Optimal string alignment distance: insert, delete, replace, swap neighbours, each costs one.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips() {
        assert_eq!(closest("add-bt", ["add-br", "del-br", "list-br"]), Some("add-br"));
        assert_eq!(closest("vlan-mode", ["tag", "vlan_mode"]), Some("vlan_mode"));
        assert_eq!(closest("trnuks", ["tag", "trunks"]), Some("trunks"));
        assert_eq!(closest("BR0", ["br1", "br0"]), Some("br0"));
        assert_eq!(closest("mac-ag", ["mac-aging-time", "mac-table-size"]), Some("mac-aging-time"));
    }

    #[test]
    fn stays_silent_when_nothing_is_near() {
        assert_eq!(closest("zzz", ["tag", "trunks"]), None);
        assert_eq!(closest("", ["tag"]), None);
        assert_eq!(closest(&"x".repeat(1000), ["tag"]), None);
    }
}
