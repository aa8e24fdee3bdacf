//! How does what a device carries depend on the number of flows? One trial for each number.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::frames::Frames;
use super::profile::Profile;
use super::progress::Progress;
use super::rate::{Rate, scaled};
use super::report::{Figures, Place};
use super::rig::{Ends, Rig};
use super::trial::{self, Limit, Plan};

/// The figures of each number of flows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub place: Place,
    pub traffic: String,
    pub points: Vec<Point>,
}

/// One number of flows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    pub flows: u32,
    pub figures: Figures,
}

/// Do one trial of so long, and the grace after it, for each number of flows.
///
/// # Errors
/// If the rig cannot be opened or the profile not be sent.
pub fn run(
    ends: &Ends,
    profile: &Profile,
    (flows, rate): (&[u32], Rate),
    (time, grace): (Duration, Duration),
    device: Option<&str>,
    progress: &mut Progress,
) -> Result<Report> {
    ensure!(!flows.is_empty(), "--over: no number of flows");
    ensure!(profile.pcap.is_none(), "--pcap: a file has the flows that it has: leave it out");
    ensure!(profile.flows == 1, "--flows {}: a sweep has those of --over", profile.flows);
    let made: Result<Vec<Frames>> = flows
        .iter()
        .map(|flows| {
            let profile = Profile { flows: *flows, ..profile.clone() };
            Frames::new(&profile, rate.packets(profile.size.mean()))
        })
        .collect();
    let made = made?;
    let largest = made.iter().map(Frames::largest).max().context("no frames")?;
    let numbers: Vec<String> = flows.iter().map(u32::to_string).collect();
    let traffic = profile.summary_of(&format!("{} flows", numbers.join(", ")));
    let mut rig = Rig::open(ends, largest)?;
    let place = Place::here(&rig, device);
    let mut points = Vec::new();
    let mut all = || -> Result<()> {
        for (number, (flows, frames)) in flows.iter().zip(&made).enumerate() {
            let limit = Limit { time: Some(time), packets: None };
            let what = format!("{flows} flows");
            let plan = Plan { trial: number as u16 + 1, rate, limit, grace };
            let outcome = trial::run(&mut rig, frames, &plan, |glance| {
                progress.trial(&what, &glance);
            })?;
            points.push(Point { flows: *flows, figures: Figures::of(&outcome) });
        }
        Ok(())
    };
    let done = all();
    rig.close();
    progress.end();
    done.map(|()| Report { place, traffic, points })
}

impl Report {
    /// A table for people.
    pub fn text(&self) -> String {
        let mut text = self.place.text()
            + &self.traffic
            + "\n\n     flows        carried       lost   p50 us   p99 us  cycles\n";
        for point in &self.points {
            let f = &point.figures;
            let latency = f.latency_us.as_ref();
            let known = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.1}"));
            text += &format!(
                "{:>10} {:>14} {:>9.4}% {:>8} {:>8} {:>7}\n",
                point.flows,
                scaled(f.carried_pps, "pps"),
                f.loss * 100.0,
                known(latency.map(|l| l.p50)),
                known(latency.map(|l| l.p99)),
                known(f.cycles)
            );
        }
        text
    }

    /// One line for each number of flows.
    pub fn csv(&self) -> String {
        let mut text = format!("flows,{}\n", Figures::CSV);
        for point in &self.points {
            text += &format!("{},{}\n", point.flows, point.figures.csv());
        }
        text
    }
}
