//! The command line of `pktgen`, and what each command does.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use super::frames::{self, Frames};
use super::profile::{MOST_FLOWS, Profile};
use super::progress::Progress;
use super::rate::Rate;
use super::report::{Figures, Place, allowed_cores, list};
use super::rfc2544::{self, SearchArguments, seconds};
use super::rig::{Ends, Rig, XdpMode};
use super::trial::{self, Limit, Plan, STOP};
use super::{connections, plots, sweep};

const EXAMPLES: &str = "\
Examples:
  pktgen run eth1 eth2 --rate 1Mpps --seconds 10
  pktgen run eth1 eth2 --rate 5Gbit --size imix --flows 10000 --vlan 10-19
  pktgen run eth1 eth2 --count 1000 --rate 1000 --format json --plot latency.svg
  pktgen run --inside in_port=1,actions=output:2 --flows 1000 --stages cost.svg
  pktgen rfc2544 eth1 eth2 --size 64,1518 --trial 60 --loss 0 --partial-loss 0.5
  pktgen sweep eth1 eth2 --over 1,1000,100000 --plot flows.svg
  pktgen connections eth1 eth2 --per-second 1000 --sources 10
  pktgen dump --size imix --flows 100 --count 1000 packets.pcap

Packets go into the first interface and are expected from the second; the device under test is between them.
Both must be free of other XDP programs, and are put back as they were at the end. As root.";

/// Send packets through a device and find out what becomes of each
#[derive(Debug, Parser)]
#[command(name = "pktgen", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    /// How the result is written
    #[arg(long, value_enum, global = true, default_value_t = Format::Text)]
    pub format: Format,
}

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// One document
    Json,
    /// A head and lines
    Csv,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send at a rate for a time: loss, order, copies, latency
    #[command(allow_negative_numbers = true)]
    Run {
        #[command(flatten)]
        ends: EndArguments,
        #[command(flatten)]
        profile: Box<Profile>,
        /// Packets or bits a second: 250000, 1.5Mpps, 10Gbit; or as fast as possible
        #[arg(long, default_value = "max", value_name = "RATE")]
        rate: Rate,
        /// How long to send; 10 without --count
        #[arg(long, value_name = "SECONDS", value_parser = seconds)]
        seconds: Option<f64>,
        /// How many packets to send
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        /// Draw the distribution of latency
        #[arg(long, value_name = "FILE.svg", value_parser = plots::file)]
        plot: Option<PathBuf>,
        /// Draw what a packet costs the switch inside, by stage
        #[arg(long, value_name = "FILE.svg", requires = "inside",
              value_parser = plots::file)]
        stages: Option<PathBuf>,
    },
    /// Search for the highest rates without loss and with a little (RFC 2544), and measure latency below them
    #[command(allow_negative_numbers = true)]
    Rfc2544 {
        #[command(flatten)]
        ends: EndArguments,
        #[command(flatten)]
        profile: Box<Profile>,
        #[command(flatten)]
        search: SearchArguments,
    },
    /// Measure with several numbers of flows
    #[command(allow_negative_numbers = true)]
    Sweep {
        #[command(flatten)]
        ends: EndArguments,
        #[command(flatten)]
        profile: Box<Profile>,
        /// Numbers of flows
        #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,100,10000,100000",
              value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_FLOWS)))]
        over: Vec<u32>,
        /// Packets or bits a second, or as fast as possible
        #[arg(long, default_value = "max", value_name = "RATE")]
        rate: Rate,
        /// How long to send each
        #[arg(long, default_value_t = 5.0, value_name = "SECONDS", value_parser = seconds)]
        seconds: f64,
        /// Draw throughput against flows
        #[arg(long, value_name = "FILE.svg", value_parser = plots::file)]
        plot: Option<PathBuf>,
    },
    /// Open and close TCP connections: how many a second, and how fast
    #[command(allow_negative_numbers = true)]
    Connections {
        #[command(flatten)]
        ends: EndArguments,
        #[command(flatten)]
        profile: Box<Profile>,
        /// Connections to open a second
        #[arg(long, default_value_t = 1000.0, value_name = "N")]
        per_second: f64,
        /// How long
        #[arg(long, default_value_t = 5.0, value_name = "SECONDS", value_parser = seconds)]
        seconds: f64,
    },
    /// Write the packets to a capture file instead of sending them
    #[command(allow_negative_numbers = true)]
    Dump {
        #[command(flatten)]
        profile: Box<Profile>,
        /// How many packets
        #[arg(long, default_value_t = 1000, value_name = "N",
              value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
        count: u64,
        /// Packets or bits a second that their times are of
        #[arg(long, default_value = "1Mpps", value_name = "RATE")]
        rate: Rate,
        /// The file; one that exists is replaced
        file: PathBuf,
    },
}

/// Between which ports, and on which core.
#[derive(Debug, Args)]
pub struct EndArguments {
    /// Interface that sends
    #[arg(required_unless_present = "inside")]
    tx: Option<String>,
    /// Interface that receives; the sending one if none is given
    rx: Option<String>,
    /// Where XDP programs run
    #[arg(long, value_enum, default_value_t = XdpMode::Best)]
    xdp: XdpMode,
    /// A flow of a switch inside this program, in the place of interfaces: port 1 sends, port 2 receives
    #[arg(long, value_name = "FLOW", conflicts_with_all = ["tx", "rx"])]
    inside: Vec<String>,
    /// Core that the switch inside runs on
    #[arg(long, value_name = "CORE", requires = "inside")]
    inside_core: Option<usize>,
    /// Core that this program runs on
    #[arg(long, value_name = "CORE")]
    core: Option<usize>,
    /// How long packets may take to arrive after the last was sent
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS", value_parser = seconds)]
    grace: f64,
    /// What the report says of the device: where it runs, how it is set
    #[arg(long, value_name = "TEXT")]
    device: Option<String>,
}

impl EndArguments {
    fn grace(&self) -> Duration {
        Duration::from_secs_f64(self.grace)
    }

    /// What the report says of the device.
    fn device(&self) -> Option<String> {
        let inside = || match self.inside_core {
            Some(core) => format!("inside this program, on core {core}"),
            None => "inside this program, on any core".to_owned(),
        };
        self.device.clone().or_else(|| (!self.inside.is_empty()).then(inside))
    }

    fn ends(&self) -> Result<Ends> {
        for (core, what) in [(self.core, "--core"), (self.inside_core, "--inside-core")] {
            let may = allowed_cores();
            if let Some(core) = core.filter(|core| !may.contains(core)) {
                bail!("{what} {core}: this program may run on these cores: {}", list(&may));
            }
        }
        if let Some(core) = self.core {
            pin(core)?;
        }
        Ok(match &self.tx {
            Some(tx) => Ends::Interfaces {
                tx: tx.clone(),
                rx: self.rx.as_ref().unwrap_or(tx).clone(),
                mode: self.xdp,
            },
            None => Ends::Inside { flows: self.inside.join("\n"), core: self.inside_core },
        })
    }
}

fn pin(core: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    let done = rustix::thread::sched_setaffinity(None, &set);
    done.map_err(|e| anyhow::anyhow!("--core {core}: cannot run there: {e}"))
}

/// The document of `pktgen run`.
#[derive(Debug, Serialize)]
struct RunReport {
    place: Place,
    traffic: String,
    #[serde(flatten)]
    figures: Figures,
}

/// Do what the command line says; the result goes to standard output.
///
/// # Errors
/// What could not be done.
pub fn run(arguments: &Arguments) -> Result<()> {
    let format = arguments.format;
    match &arguments.command {
        Command::Run { ends, profile, rate, seconds, count, plot, stages } => {
            let time = seconds.or(count.is_none().then_some(10.0)).map(Duration::from_secs_f64);
            let limit = Limit { time, packets: *count };
            one(ends, profile, (*rate, limit), (plot.as_ref(), stages.as_ref()), format)
        }
        Command::Rfc2544 { ends, profile, search } => {
            let (device, how) = (ends.device(), (search, ends.grace()));
            let mut progress = Progress::on_terminal();
            let report =
                rfc2544::run(&ends.ends()?, profile, how, device.as_deref(), &mut progress)?;
            print(format, &report, || report.text(), || report.csv())
        }
        Command::Sweep { ends, profile, over, rate, seconds, plot } => {
            let times = (Duration::from_secs_f64(*seconds), ends.grace());
            let device = ends.device();
            let mut progress = Progress::on_terminal();
            let report = sweep::run(
                &ends.ends()?,
                profile,
                (over, *rate),
                times,
                device.as_deref(),
                &mut progress,
            )?;
            print(format, &report, || report.text(), || report.csv())?;
            plot.as_ref().map_or(Ok(()), |path| plots::sweep(path, &report))
        }
        Command::Connections { ends, profile, per_second, seconds } => {
            ensure!(
                (1.0..=1e7).contains(per_second),
                "--per-second {per_second}: from 1 to 10,000,000"
            );
            let times = (Duration::from_secs_f64(*seconds), ends.grace());
            let device = ends.device();
            let mut progress = Progress::on_terminal();
            let report = connections::run(
                &ends.ends()?,
                profile,
                *per_second,
                times,
                device.as_deref(),
                &mut progress,
            )?;
            print(format, &report, || report.text(), || report.csv())
        }
        Command::Dump { profile, count, rate, file } => {
            let Some(pps) = rate.packets(profile.size.mean()) else {
                bail!("--rate max has no times; give a rate such as 1Mpps");
            };
            frames::dump(profile, pps, *count, file)
        }
    }
}

fn one(
    ends: &EndArguments,
    profile: &Profile,
    (rate, limit): (Rate, Limit),
    (plot, by_stage): (Option<&PathBuf>, Option<&PathBuf>),
    format: Format,
) -> Result<()> {
    let frames = Frames::new(profile, rate.packets(profile.size.mean()))?;
    let mut rig = Rig::open(&ends.ends()?, frames.largest())?;
    let place = Place::here(&rig, ends.device().as_deref());
    // Different from what an earlier run may have left on its way.
    let trial = (std::process::id() as u16) | 1;
    let plan = Plan { trial, rate, limit, grace: ends.grace() };
    let mut progress = Progress::on_terminal();
    let before = rig.stages();
    let outcome = trial::run(&mut rig, &frames, &plan, |glance| progress.trial("", &glance));
    progress.end();
    let stages = before.zip(rig.stages()).map(|(before, now)| now.since(&before));
    rig.close();
    let outcome = outcome?;
    let report = RunReport { place, traffic: profile.summary(), figures: Figures::of(&outcome) };
    let text = || format!("{}{}\n{}", report.place.text(), report.traffic, report.figures.text());
    let csv = || format!("{}\n{}\n", Figures::CSV, report.figures.csv());
    // What was measured is shown also where a plot cannot be drawn.
    print(format, &report, text, csv)?;
    if let Some((path, stages)) = by_stage.zip(stages) {
        plots::stages(path, &[(rate.to_string(), stages.to_vec())])?;
    }
    plot.map_or(Ok(()), |path| {
        plots::latency(path, &report.traffic, &[(rate.to_string(), &outcome.latency)])
    })
}

fn print<T: Serialize>(
    format: Format,
    report: &T,
    text: impl Fn() -> String,
    csv: impl Fn() -> String,
) -> Result<()> {
    let text = match format {
        Format::Text => text(),
        Format::Csv => csv(),
        Format::Json => serde_json::to_string_pretty(report)? + "\n",
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// End the trial that is running, and show what it gave.
pub fn stop() {
    STOP.store(true, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_its_examples_are_read() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
        for line in EXAMPLES.lines().filter(|line| line.trim_start().starts_with("pktgen ")) {
            let parsed = Arguments::try_parse_from(line.split_whitespace());
            assert!(parsed.is_ok(), "{line}: {:?}", parsed.err().map(|e| e.to_string()));
        }
        assert!(Arguments::try_parse_from(["pktgen", "run"]).is_err(), "no ends");
        assert!(Arguments::try_parse_from(["pktgen", "run", "a", "--inside", "x"]).is_err());
    }

    #[test]
    fn what_is_wrong_is_said_with_the_option_that_it_is_in() {
        for (line, words) in [
            ("run a b --rate -5", &["--rate", "-5"][..]),
            ("run a b --seed -1", &["--seed", "-1"]),
            ("run a b --src-mac 1", &["--src-mac", "`1`", "02:00:00:00:00:01"]),
            ("run a b --new-flows many", &["--new-flows", "`many`"]),
            ("run a b --plot x.png", &["--plot", "x.png", ".svg"]),
            ("run --inside drop --stages /nonexistent/x.svg", &["--stages", "/nonexistent"]),
            ("rfc2544 a b --precision 60", &["--precision", "`60`", "0.01 to 50"]),
            ("rfc2544 a b --precision 0", &["--precision", "`0`"]),
            ("rfc2544 a b --lowest max", &["--lowest", "`max`"]),
            ("sweep a b --over 1,200000000", &["--over", "200000000", "100000000"]),
        ] {
            let words_of = std::iter::once("pktgen").chain(line.split_whitespace());
            let text = Arguments::try_parse_from(words_of).expect_err(line).to_string();
            for word in words {
                assert!(text.contains(word), "{line} does not say {word}: {text}");
            }
        }
    }
}
