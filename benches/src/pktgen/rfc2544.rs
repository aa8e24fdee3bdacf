//! The no-drop and the partial-drop rate of a device, and how late packets are at shares of it.
//!
//! For each frame size as RFC 2544 sections 26.1 and 26.2 have it; the report says what RFC 8204 wants said beside
//! figures of virtual switches: machine, kernel, drivers, modes, placement on cores.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use super::frames::Frames;
use super::profile::Profile;
use super::progress::Progress;
use super::rate::{Rate, scaled};
use super::report::{Figures, Place};
use super::rig::{Ends, Rig};
use super::search::{self, Answer, Device, Found, Options};
use super::sizes::{RFC2544, Sizes};
use super::trial::{self, Limit, Plan};

/// The search, as the command line says it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Search")]
pub struct SearchArguments {
    /// Highest rate: the first trial
    #[arg(long, default_value = "20Mpps", value_name = "RATE", value_parser = bounded)]
    pub highest: Rate,
    /// Lowest rate that is tried
    #[arg(long, default_value = "1kpps", value_name = "RATE", value_parser = bounded)]
    pub lowest: Rate,
    /// Seconds of a trial; RFC 2544 wants 60
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS", value_parser = seconds)]
    pub trial: f64,
    /// How close to the true rate, in percent of it
    #[arg(long, default_value_t = 1.0, value_name = "PERCENT", value_parser = precision)]
    pub precision: f64,
    /// Loss that still counts as none, in percent
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT", value_parser = percent)]
    pub loss: f64,
    /// Loss that the partial-drop rate allows, in percent
    #[arg(long, default_value_t = 0.5, value_name = "PERCENT", value_parser = percent)]
    pub partial_loss: f64,
    /// Shares of the no-drop rate at which latency is measured, in percent
    #[arg(long, default_value = "10,50,90", value_name = "PERCENT,...", value_delimiter = ',',
          value_parser = percent)]
    pub latency_at: Vec<f64>,
    /// Do the sizes that RFC 2544 names, one after the other
    #[arg(long, conflicts_with_all = ["size", "pcap"])]
    pub all_sizes: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err(format!("`{text}`: a percentage from 0 to 100")),
    }
}

fn precision(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse() {
        Ok(value) if (0.01..=50.0).contains(&value) => Ok(value),
        _ => Err(format!("`{text}`: a percentage from 0.01 to 50")),
    }
}

/// A rate that is a number.
fn bounded(text: &str) -> Result<Rate, String> {
    match text.parse()? {
        Rate::Max => Err("`max` is no bound: a rate such as 20Mpps or 10Gbit".into()),
        rate => Ok(rate),
    }
}

/// A time of more than nothing and at most a day.
pub fn seconds(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('s').parse() {
        Ok(value) if value > 0.0 && value <= 86_400.0 => Ok(value),
        _ => Err(format!("`{text}`: seconds, more than 0 and at most 86400")),
    }
}

/// What was found for one frame size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SizeReport {
    pub size: String,
    pub no_drop: Found,
    pub partial_drop: Found,
    /// Trials at shares of the no-drop rate: (percent, figures).
    pub latency: Vec<(f64, Figures)>,
    /// Every trial of the search.
    pub trials: Vec<Answer>,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub place: Place,
    pub traffic: String,
    /// Seconds of a trial.
    pub trial: f64,
    pub precision_percent: f64,
    pub sizes: Vec<SizeReport>,
}

/// A rig as a device that can be asked.
struct Asked<'a> {
    rig: &'a mut Rig,
    frames: &'a mut Frames,
    time: Duration,
    grace: Duration,
    trials: u16,
    /// Which size this is about.
    size: String,
    progress: &'a mut Progress,
}

impl Asked<'_> {
    fn figures(&mut self, rate: f64) -> Result<Figures> {
        self.trials = self.trials.wrapping_add(1);
        let limit = Limit { time: Some(self.time), packets: None };
        let plan = Plan { trial: self.trials, rate: Rate::Packets(rate), limit, grace: self.grace };
        self.frames.set_rate(rate);
        let (progress, what) = (&mut *self.progress, format!("{} at {}", self.size, plan.rate));
        let outcome =
            trial::run(self.rig, self.frames, &plan, |glance| progress.trial(&what, &glance))?;
        Ok(Figures::of(&outcome))
    }
}

impl Device for Asked<'_> {
    fn ask(&mut self, rate: f64) -> Result<Answer> {
        let figures = self.figures(rate)?;
        let answer = Answer {
            wanted: rate,
            offered: figures.offered_pps,
            carried: figures.carried_pps,
            loss: figures.loss,
        };
        self.progress.say(&format!(
            "{} at {}: {} offered, {:.4} % lost",
            self.size,
            scaled(rate, "pps"),
            scaled(answer.offered, "pps"),
            answer.loss * 100.0
        ));
        ensure!(!trial::STOP.load(std::sync::atomic::Ordering::Relaxed), "interrupted");
        Ok(answer)
    }
}

/// Search for every size, with that grace after each trial.
///
/// # Errors
/// If the rig cannot be opened or the profile not be sent.
pub fn run(
    ends: &Ends,
    profile: &Profile,
    (arguments, grace): (&SearchArguments, Duration),
    device: Option<&str>,
    progress: &mut Progress,
) -> Result<Report> {
    ensure!(
        arguments.partial_loss >= arguments.loss,
        "--partial-loss {} is less than --loss {}",
        arguments.partial_loss,
        arguments.loss
    );
    let sizes: Vec<Sizes> = match arguments.all_sizes {
        true => RFC2544.iter().filter_map(|size| size.to_string().parse().ok()).collect(),
        false => vec![profile.size.clone()],
    };
    let largest = sizes.iter().map(Sizes::largest).max().unwrap_or(0);
    let largest = match &profile.pcap {
        Some(_) => Frames::new(profile, None)?.largest(),
        None => largest,
    };
    let mut rig = Rig::open(ends, largest)?;
    let mut report = Report {
        place: Place::here(&rig, device),
        traffic: match arguments.all_sizes {
            true => Profile { size: all_of(&sizes)?, ..profile.clone() }.summary(),
            false => profile.summary(),
        },
        trial: arguments.trial,
        precision_percent: arguments.precision,
        sizes: Vec::new(),
    };
    let mut done = || -> Result<()> {
        for size in &sizes {
            let profile = Profile { size: size.clone(), ..profile.clone() };
            report.sizes.push(one(&mut rig, &profile, (arguments, grace), progress)?);
        }
        Ok(())
    };
    let done = done();
    rig.close();
    progress.end();
    done.map(|()| report)
}

/// All of them, for the report.
fn all_of(sizes: &[Sizes]) -> Result<Sizes> {
    let names: Vec<String> = sizes.iter().map(Sizes::to_string).collect();
    names.join(",").parse().map_err(anyhow::Error::msg)
}

fn one(
    rig: &mut Rig,
    profile: &Profile,
    (arguments, grace): (&SearchArguments, Duration),
    progress: &mut Progress,
) -> Result<SizeReport> {
    // New flows are counted by the rate of each trial.
    let mut frames = Frames::new(profile, Some(1.0))?;
    let mean = frames.mean_size();
    let rate = |rate: Rate, otherwise: f64| rate.packets(mean).unwrap_or(otherwise);
    let options = Options {
        highest: rate(arguments.highest, 2e7),
        lowest: rate(arguments.lowest, 1000.0),
        precision: arguments.precision / 100.0,
    };
    let time = Duration::from_secs_f64(arguments.trial);
    let size = match &profile.pcap {
        Some(path) => path.display().to_string(),
        None => profile.size.describe(),
    };
    let mut asked = Asked { rig, frames: &mut frames, time, grace, trials: 0, size, progress };
    let thresholds = [arguments.loss / 100.0, arguments.partial_loss / 100.0];
    let (found, trials) = search::search_all(&mut asked, &thresholds, &options)?;
    let [no_drop, partial_drop] = found[..] else { anyhow::bail!("two results were expected") };
    let mut latency = Vec::new();
    for share in &arguments.latency_at {
        if let Some(rate) = no_drop.rate.filter(|_| *share > 0.0) {
            latency.push((*share, asked.figures(rate * share / 100.0)?));
        }
    }
    Ok(SizeReport { size: profile.size.to_string(), no_drop, partial_drop, latency, trials })
}

impl Report {
    /// A table for people.
    pub fn text(&self) -> String {
        let mut text = self.place.text();
        text += &format!(
            "{}; trials of {} s, to {} %\n\n",
            self.traffic, self.trial, self.precision_percent
        );
        text += "size         no-drop rate    partial-drop rate   load   p50 us   p99 us   max us    loss  cores\n";
        for size in &self.sizes {
            let rates = format!(
                "{:10} {:>14} {:>20}",
                size.size,
                rate(&size.no_drop),
                rate(&size.partial_drop)
            );
            if size.latency.is_empty() {
                text += &format!("{rates}\n");
            }
            for (row, (share, figures)) in size.latency.iter().enumerate() {
                let head = if row == 0 { rates.clone() } else { " ".repeat(rates.chars().count()) };
                let of = |of: fn(&super::report::Latency) -> f64| {
                    figures.latency_us.as_ref().map_or("-".into(), |l| format!("{:.1}", of(l)))
                };
                let cores: Vec<String> =
                    figures.cores.iter().map(|c| format!("{:.0}%", c.busy_percent)).collect();
                text += &format!(
                    "{head} {share:>5.0}% {:>8} {:>8} {:>8} {:>6.3}% {}\n",
                    of(|l| l.p50),
                    of(|l| l.p99),
                    of(|l| l.max),
                    figures.loss * 100.0,
                    cores.join(" ")
                );
            }
        }
        let found = || self.sizes.iter().flat_map(|s| [&s.no_drop, &s.partial_drop]);
        if found().any(|f| f.limited_by_sender) {
            text += "> the sender could not send more: the device may carry more\n";
        }
        if found().any(|f| f.failed.is_none()) {
            text += "> nothing above --highest was tried: the device may carry more\n";
        }
        text
    }

    /// One line for each size and share.
    pub fn csv(&self) -> String {
        let known = |value: Option<f64>| value.map_or_else(String::new, |v| format!("{v:.0}"));
        let mut text = format!("size,no_drop_pps,partial_drop_pps,load_percent,{}\n", Figures::CSV);
        for size in &self.sizes {
            let head = format!(
                "{},{},{}",
                size.size,
                known(size.no_drop.rate),
                known(size.partial_drop.rate)
            );
            for (share, figures) in &size.latency {
                text += &format!("{head},{share},{}\n", figures.csv());
            }
            if size.latency.is_empty() {
                text += &format!("{head},{}\n", ",".repeat(Figures::CSV.matches(',').count() + 1));
            }
        }
        text
    }
}

fn rate(found: &Found) -> String {
    let more = if found.limited_by_sender || found.failed.is_none() { ">" } else { "" };
    found.rate.map_or_else(|| String::from("none"), |r| format!("{more}{}", scaled(r, "pps")))
}
