//! The crates stand in tiers, and no arrow points up.

use std::collections::BTreeMap;
use std::path::Path;

/// Tiers from the bottom up; crates of one line do not use each other.
const TIERS: &[&[&str]] = &[
    &["xdp-progs"],
    &["afxdp"],
    &["flow"],
    &["classifier", "conntrack", "tunnel", "ports"],
    &["ofproto"],
    &["engine"],
    &["ctl"],
    &["e2e"],
    &["benches"],
    &["xtask"],
];

fn tier(name: &str) -> Option<usize> {
    TIERS.iter().position(|t| t.contains(&name))
}

/// Names of the workspace's crates that each crate depends on, outside of tests.
fn dependencies(root: &Path) -> BTreeMap<String, Vec<String>> {
    let mut dirs: Vec<_> =
        ["xdp-progs", "ctl", "tests", "benches", "xtask"].iter().map(|d| root.join(d)).collect();
    let dataplane = std::fs::read_dir(root.join("dataplane")).expect("dataplane/");
    dirs.extend(dataplane.map(|d| d.expect("a directory").path()));
    let mut all = BTreeMap::new();
    for dir in dirs {
        let text = std::fs::read_to_string(dir.join("Cargo.toml")).expect("Cargo.toml");
        let name = text
            .lines()
            .find_map(|l| l.strip_prefix("name = "))
            .expect("a name")
            .trim_matches('"')
            .to_owned();
        let section = text.split("[dependencies]").nth(1).unwrap_or_default();
        let section = section.split("\n[").next().unwrap_or_default();
        let names = section.lines().filter_map(|l| l.split(['.', ' ', '=']).next());
        let own = names.filter(|n| tier(n).is_some()).map(str::to_owned).collect();
        all.insert(name, own);
    }
    all
}

#[test]
fn no_arrow_points_up() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let all = dependencies(root);
    assert_eq!(all.len(), TIERS.iter().map(|t| t.len()).sum::<usize>(), "{all:?}");
    let mut arrows = 0;
    for (name, uses) in &all {
        let own = tier(name).unwrap_or_else(|| panic!("{name} is in no tier"));
        for used in uses {
            arrows += 1;
            assert!(tier(used) < Some(own), "{name} must not use {used}");
        }
    }
    assert!(arrows > 20, "only {arrows} arrows were found");
}
