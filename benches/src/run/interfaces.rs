//! The rows on real interfaces: each contender in turn in a sandbox of its own.
//!
//! A group of rows is measured by one run of a contender, one figure for each row. Its measuring function is
//! called inside that sandbox, by this program run again with `--veth GROUP --who CONTENDER`.

use anyhow::{Context, Result, bail, ensure};
use e2e::lab::Lab;
use e2e::{cmd, sandbox};

use super::{Report, Side, line};
use crate::measure::{Measurement, Rounds};
use crate::results::{Line, Unit};
use crate::veth::rig::{self, Switch};
use crate::veth::{ct, idle, latency, memory, snat, tcp, vxlan};

/// The switch's own name among contenders.
const OURS: &str = "ours";

/// Rows that one run of a contender gives.
#[derive(Debug)]
struct Group {
    name: &'static str,
    rows: &'static [&'static str],
    unit: Unit,
    peers: &'static [&'static str],
    measure: fn(&Lab, Switch, &Ask) -> Result<Vec<Measurement>>,
}

/// What a measurement is to be like.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    pub seconds: u32,
    /// Packets a second that count as full load; 0 to find out.
    pub load: f64,
}

const GROUPS: &[Group] = &[
    Group {
        name: "veth-forward-1",
        rows: &["veth-forward-1"],
        unit: Unit::MPPS,
        peers: &["ovs-afxdp", "bare", "linux"],
        measure: |lab, switch, ask| forward(lab, switch, 1, ask),
    },
    Group {
        name: "veth-forward-1024",
        rows: &["veth-forward-1024"],
        unit: Unit::MPPS,
        peers: &["ovs-afxdp", "bare", "linux"],
        measure: |lab, switch, ask| forward(lab, switch, 1024, ask),
    },
    Group {
        name: "veth-tcp",
        rows: &["veth-tcp"],
        unit: Unit::GBIT,
        peers: &["linux"],
        measure: |lab, switch, ask| {
            one(match switch {
                Switch::Ours => tcp::ours(lab, ask.seconds),
                _ => tcp::linux(lab, ask.seconds),
            })
        },
    },
    Group {
        name: "veth-vxlan-tcp",
        rows: &["veth-vxlan-tcp"],
        unit: Unit::GBIT,
        peers: &["ovs-afxdp", "linux"],
        measure: |lab, switch, ask| {
            one(match switch {
                Switch::Ours => vxlan::ours(lab, ask.seconds),
                Switch::Linux => vxlan::linux(lab, ask.seconds),
                _ => vxlan::ovs(lab, ask.seconds),
            })
        },
    },
    Group {
        name: "snat-tcp",
        rows: &["snat-tcp"],
        unit: Unit::GBIT,
        peers: &["ovs-afxdp"],
        measure: |lab, switch, ask| {
            one(match switch {
                Switch::Ours => snat::ours(lab, ask.seconds),
                _ => snat::ovs(lab, ask.seconds),
            })
        },
    },
    Group {
        name: "veth-ct-new",
        rows: &["veth-ct-new"],
        unit: Unit::MPPS,
        peers: &["linux"],
        measure: |lab, switch, ask| {
            one(match switch {
                Switch::Ours => ct::ours(lab, ask.seconds),
                _ => ct::linux(lab, ask.seconds),
            })
        },
    },
    Group {
        name: LATENCY,
        rows: &latency::ROWS,
        unit: Unit::MICROSECONDS,
        peers: &["ovs-afxdp", "bare", "linux"],
        measure: latency::measure,
    },
    Group {
        name: "idle-cpu",
        rows: &["idle-cpu"],
        unit: Unit::CORE,
        peers: &["ovs-afxdp"],
        measure: |lab, switch, ask| one(idle::measure(lab, switch, ask.seconds)),
    },
    Group {
        name: "resident-100000",
        rows: &["resident-100000"],
        unit: Unit::MIB,
        peers: &[],
        measure: |lab, _, _| one(memory::resident(lab)),
    },
];

/// The group whose load is found out first.
const LATENCY: &str = "latency";

fn one(measured: Result<Measurement>) -> Result<Vec<Measurement>> {
    Ok(vec![measured?])
}

fn forward(lab: &Lab, switch: Switch, flows: u32, ask: &Ask) -> Result<Vec<Measurement>> {
    one(rig::forward(lab, switch, flows, ask.seconds, &rig::programs()?))
}

/// The names of the rows.
pub(super) fn names() -> impl Iterator<Item = String> {
    GROUPS.iter().flat_map(|group| group.rows).map(|row| (*row).to_owned())
}

/// Those of the plan.
pub(super) fn all(report: &mut Report<'_>) -> Result<()> {
    for group in GROUPS {
        let wanted = |row: &&&str| report.plan.has_row(row);
        let rows: Vec<&str> = group.rows.iter().filter(wanted).copied().collect();
        if !rows.is_empty() {
            beside(report, group, &rows)?;
        }
    }
    Ok(())
}

/// One group beside its peers, round by round.
fn beside(report: &mut Report<'_>, group: &Group, rows: &[&str]) -> Result<()> {
    let plan = report.plan;
    let peers: Vec<&str> = group.peers.iter().copied().filter(|name| plan.has_peer(name)).collect();
    let all: Vec<&str> =
        plan.ours.then_some(OURS).into_iter().chain(peers.iter().copied()).collect();
    let mut ask = Ask { seconds: plan.seconds, load: 0.0 };
    if group.name == LATENCY {
        match full_load(&all) {
            Ok(load) => ask.load = load,
            Err(error) => return say_failed(report, group, rows, &error),
        }
    }
    // For each contender, for each row of the group.
    let side = || group.rows.iter().map(|_| Side::default()).collect::<Vec<_>>();
    let mut sides: Vec<Vec<Side>> = all.iter().map(|_| side()).collect();
    for _ in 0..plan.rounds {
        for (who, sides) in all.iter().zip(&mut sides) {
            match outside(group.name, who, &ask) {
                Ok(measured) => sides.iter_mut().zip(measured).for_each(|(s, m)| s.keep(Ok(m))),
                Err(error) => {
                    let text = format!("{error:#}");
                    sides.iter_mut().for_each(|s| s.wrong = Some(text.clone()));
                }
            }
        }
    }
    let nobody = side();
    let of = |who: &str| all.iter().position(|name| *name == who).map_or(&nobody, |at| &sides[at]);
    for (at, row) in group.rows.iter().enumerate().filter(|(_, row)| rows.contains(row)) {
        for peer in &peers {
            report.line(line(row, peer, group.unit, &of(OURS)[at], &of(peer)[at]))?;
        }
        if peers.is_empty() {
            report.line(line(row, "none", group.unit, &of(OURS)[at], &nobody[at]))?;
        }
    }
    Ok(())
}

fn say_failed(
    report: &mut Report<'_>,
    group: &Group,
    rows: &[&str],
    error: &anyhow::Error,
) -> Result<()> {
    for row in rows {
        let mut line = Line::new(row, "none", group.unit, &Rounds::default(), &Rounds::default());
        line.failed = Some(format!("{error:#}"));
        report.line(line)?;
    }
    Ok(())
}

/// Packets a second that every contender carries: the least of what each carries when it is offered all that the
/// generator has.
fn full_load(all: &[&str]) -> Result<f64> {
    let ask = Ask { seconds: 1, load: 0.0 };
    let carried = |who: &&str| Some(outside(LATENCY, who, &ask).ok()?.first()?.rate * 1e6);
    let least = all.iter().filter_map(carried).reduce(f64::min);
    least.filter(|pps| *pps > 0.0).context("nobody carries the generator's packets")
}

/// Measure a group of one contender, in a sandbox of its own.
fn outside(group: &str, who: &str, ask: &Ask) -> Result<Vec<Measurement>> {
    let (seconds, load) = (ask.seconds.to_string(), ask.load.to_string());
    let words = ["--veth", group, "--who", who, "--seconds", &seconds, "--load", &load];
    let out = cmd::output_of(&mut sandbox::command(&words)?)?;
    ensure!(out.status == 0, "{}{}", out.stdout, out.stderr);
    serde_json::from_str(&out.stdout).with_context(|| format!("{who} said: {}", out.stdout))
}

/// The inside of [`outside`]: only in a sandbox of its own.
pub fn inside(group: &str, who: &str, ask: &Ask) -> Result<Vec<Measurement>> {
    let switch = match who {
        OURS => Switch::Ours,
        "ovs-afxdp" => Switch::OvsAfxdp,
        "bare" => Switch::Bare,
        "linux" => Switch::Linux,
        _ => bail!("nobody is called {who}"),
    };
    let group = GROUPS.iter().find(|g| g.name == group).with_context(|| format!("no {group}"))?;
    let lab = Lab::new()?;
    let measured = (group.measure)(&lab, switch, ask);
    if measured.is_err() {
        lab.describe();
    }
    measured
}
