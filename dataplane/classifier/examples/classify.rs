//! What do lookups, changes and recorded visits cost?
//!
//! Prints a table of nanoseconds and bytes, in about a minute; an argument sets the largest number
//! of rules. Memory is the growth of
//! the resident set, so only differences of many megabytes mean something.

use classifier::{Change, Footprints, Rule, RuleTable, Visits};
use flow::key::mix;
use flow::{Field, FlowKey, Match};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Acl {
    matches: Match,
    priority: u16,
}

impl Rule for Acl {
    fn matches(&self) -> &Match {
        &self.matches
    }
    fn priority(&self) -> u16 {
        self.priority
    }
}

/// A number that looks random.
fn random(n: u64) -> u64 {
    mix(n ^ 0x9e37_79b9_7f4a_7c15, 0xe703_7ed1_a0b4_28db)
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|s| s.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

fn per(elapsed: Duration, n: usize) -> f64 {
    elapsed.as_nanos() as f64 / n as f64
}

/// The n-th rule of a table with so many masks: all match an IPv4 host and something more, with
/// prefixes of different lengths for the source.
fn rule(n: usize, masks: usize) -> Arc<Acl> {
    let (r, which) = (random(n as u64), n % masks);
    let (mut k, mut m) = (FlowKey::ZERO, FlowKey::ZERO);
    let mut set = |f: Field, v: u128, mask: u128| {
        k.set(f, v & mask);
        m.set(f, mask);
    };
    set(Field::EthType, 0x800, 0xffff);
    set(Field::NwDst, u128::from(r), 0xffff_ffff);
    if which > 0 {
        let len = 17 + which % 16;
        set(Field::NwSrc, u128::from(r >> 32), 0xffff_ffff << (32 - len) & 0xffff_ffff);
    }
    if which >= 16 {
        set(Field::NwProto, 6, 0xff);
        set(Field::TpDst, u128::from(r >> 16), 0xffff << ((which >> 4) % 16) & 0xffff);
    }
    let priority = 100 + (which % 50) as u16;
    Arc::new(Acl { matches: Match::new(&k, &m), priority })
}

/// A packet that matches the n-th rule.
fn packet(n: usize, masks: usize) -> FlowKey {
    let mut k = rule(n, masks).matches.key();
    k.set(Field::InPort, 3);
    k.set(Field::EthSrc, u128::from(random(n as u64 + 77)));
    k.set(Field::TpSrc, u128::from(random(n as u64 + 78)));
    k
}

/// Distinct keys looked up: few enough for a core's second cache, as a worker's are that it has
/// just extracted.
const KEYS: usize = 1000;

fn lookups(t: &RuleTable<Acl>, keys: &[FlowKey]) -> f64 {
    let rounds = 200_000 / keys.len().max(1) + 1;
    let start = Instant::now();
    for _ in 0..rounds {
        for k in keys {
            let mut wc = FlowKey::ZERO;
            black_box(t.find(black_box(k), &mut wc).rule);
        }
    }
    per(start.elapsed(), rounds * keys.len())
}

/// One row, in a process of its own so that memory is not what an earlier row left.
fn row(rules: usize, masks: usize) {
    let list: Vec<_> = (0..rules).map(|n| rule(n, masks)).collect();
    let before = resident();
    let start = Instant::now();
    let mut t = RuleTable::new();
    for r in &list {
        t.insert(Arc::clone(r));
    }
    let insert = per(start.elapsed(), rules);
    let bytes = resident().saturating_sub(before) as f64 / rules as f64;
    let pick = |n: usize| random(n as u64 + 5) as usize % rules;
    let keys: Vec<_> = (0..KEYS).map(|n| packet(pick(n), masks)).collect();
    let hit = lookups(&t, &keys);
    let keys: Vec<_> = (0..KEYS).map(|n| packet(rules + pick(n), masks)).collect();
    let miss = lookups(&t, &keys);
    let alone = change_alone(&mut t, rules, masks);
    println!(
        "{rules:<9} {:<6} {hit:>8.0} ns {miss:>9.0} ns {insert:>4.0} ns {alone:>9.0} ns {bytes:>9.0}",
        t.masks()
    );
}

fn tables(most: usize) -> std::io::Result<()> {
    println!("rules     masks  lookup hit  lookup miss  insert  change alone  bytes/rule");
    let me = std::env::current_exe()?;
    for rules in [10usize, 1_000, 10_000, 100_000, 1_000_000].into_iter().filter(|n| *n <= most) {
        for masks in [1usize, 4, 16, 64, 256].into_iter().filter(|m| *m <= rules) {
            let args = [rules.to_string(), masks.to_string()];
            std::process::Command::new(&me).args(args).status()?;
        }
    }
    Ok(())
}

/// Each change made to a clone of its own, with the older table dropped: as when every change
/// is a publication.
fn change_alone(t: &mut RuleTable<Acl>, rules: usize, masks: usize) -> f64 {
    let n = 4000;
    let extra: Vec<_> = (0..n / 2).map(|i| rule(2 * rules + i, masks)).collect();
    let start = Instant::now();
    for r in &extra {
        let mut next = t.clone();
        next.insert(Arc::clone(r));
        *t = next;
    }
    for r in &extra {
        let mut next = t.clone();
        next.remove(&r.matches, r.priority);
        *t = next;
    }
    per(start.elapsed(), n)
}

/// A megaflow's ten visits: some are shared by all, some by a port or a network, one is its own.
fn visit(flow: u32, table: u32) -> (FlowKey, FlowKey, u64) {
    let (mut k, mut wc) = (FlowKey::ZERO, FlowKey::ZERO);
    let port = u128::from(flow % 64);
    let mut set = |f: Field, v: u128| {
        k.set(f, v);
        wc.set(f, f.full());
    };
    set(Field::EthType, 0x800);
    match table {
        0..4 => {}
        4..7 => set(Field::InPort, port),
        7..9 => {
            set(Field::Reg0, port);
            set(Field::EthDst, u128::from(flow % 1000));
        }
        _ => {
            set(Field::InPort, port);
            set(Field::NwDst, u128::from(random(u64::from(flow)) as u32));
            set(Field::TpDst, u128::from(flow % 10_000));
            set(Field::NwProto, 6);
        }
    }
    // A shared visit finds the same rule for all.
    let which = if table < 4 { 0 } else { flow % 64 };
    let rule = (u64::from(table) << 32) + u64::from(which) + 1;
    (k, wc, rule)
}

const VISITS: u32 = 10;

fn record(f: &mut Footprints, flow: u32, looked: &[(FlowKey, FlowKey, u64)], list: &mut Visits) {
    list.clear();
    for (table, (k, wc, rule)) in looked.iter().enumerate() {
        list.push(table as u32, k, wc, *rule, 10);
    }
    f.add(flow, list, std::iter::empty());
}

fn footprints() {
    let flows = 100_000u32;
    let before = resident();
    let mut f = Footprints::new();
    let mut spent = Duration::ZERO;
    let mut visits = vec![visit(0, 0); 8 * VISITS as usize];
    let mut list = Visits::default();
    let mut record_all = |f: &mut Footprints, range: std::ops::Range<u32>| {
        let mut spent = Duration::ZERO;
        for part in range.step_by(8) {
            for (i, v) in (0..).zip(&mut visits) {
                *v = visit(part + i / VISITS, i % VISITS);
            }
            let start = Instant::now();
            for (d, v) in (part..).zip(visits.chunks(VISITS as usize)) {
                record(f, d, v, &mut list);
            }
            spent += start.elapsed();
        }
        spent
    };
    spent += record_all(&mut f, 0..flows);
    let bytes = resident().saturating_sub(before) as f64 / f64::from(flows);
    println!("\nfootprints of {flows} megaflows with {VISITS} visits each: {:?}", f.sizes());
    println!("  record, new        {:>8.0} ns a megaflow, {bytes:.0} bytes", per(spent, 100_000));

    let start = Instant::now();
    (0..flows).for_each(|d| f.remove(d));
    println!("  remove             {:>8.0} ns a megaflow", per(start.elapsed(), 100_000));
    let again = record_all(&mut f, 0..flows);
    println!("  record again       {:>8.0} ns a megaflow", per(again, 100_000));

    // Rules for addresses that no megaflow has, as an agent adds and deletes them.
    let changes: Vec<_> = (0..50_000u64)
        .map(|n| {
            let (mut k, mut m) = (FlowKey::ZERO, FlowKey::ZERO);
            for (field, v) in [
                (Field::EthType, 0x800u128),
                (Field::NwDst, u128::from(random((n + 1) << 40) as u32)),
                (Field::NwProto, 17),
            ] {
                k.set(field, v);
                m.set(field, field.full());
            }
            Match::new(&k, &m)
        })
        .collect();
    let mut touched = 0usize;
    let start = Instant::now();
    for m in &changes {
        f.touched(9, m, Change::Add { priority: 20 }, &mut |_| touched += 1);
    }
    let add = per(start.elapsed(), changes.len());
    println!("  rule comes, apart  {add:>8.0} ns a change, touched {touched}");
    let start = Instant::now();
    for (n, m) in changes.iter().enumerate() {
        f.touched(9, m, Change::Gone { rule: 1 << 40 | n as u64 }, &mut |_| touched += 1);
    }
    println!("  rule goes, apart   {:>8.0} ns a change", per(start.elapsed(), changes.len()));
    let start = Instant::now();
    let mut hits = 0usize;
    for flow in 0..2000u32 {
        let (k, wc, rule) = visit(flow, 9);
        let m = Match::new(&k, &wc);
        f.touched(9, &m, Change::Add { priority: 20 }, &mut |_| hits += 1);
        f.touched(9, &m, Change::Gone { rule }, &mut |_| hits += 1);
    }
    println!("  touching           {:>8.1} ns a megaflow touched", per(start.elapsed(), hits));
    let start = Instant::now();
    let mut all = 0usize;
    f.touched(0, &Match::default(), Change::Add { priority: 20 }, &mut |_| all += 1);
    println!("  all of a table     {:>8.1} ns a megaflow, {all}", per(start.elapsed(), all));
}

fn main() -> std::io::Result<()> {
    let args: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    if let [rules, masks] = args[..] {
        row(rules, masks);
        return Ok(());
    }
    tables(args.first().copied().unwrap_or(1_000_000))?;
    footprints();
    Ok(())
}
