//! A run: both sides started and filled, warmed up, loaded in turn, checked.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum as _;
use replicateddb_local::Stack;

use crate::{
    Args,
    cluster::Cluster,
    conditions::conditions,
    meter::Usage,
    report::{Slice, Slices, details, remarks, table},
    side::{SETTLE, Side},
    template::Template,
    verify::verify,
    work::Work,
};

/// Longest wait for the replicas to serve.
const UP_LIMIT: Duration = Duration::from_secs(240);
/// Time for starting, filling, checking and stopping, beside the slices, seconds: as planned, not a limit.
const BESIDE_SECONDS: u64 = 60;

/// How often each work load is run on each side before the first round: the JVMs compile, caches and files come to be.
pub const WARM_UPS: u32 = 2;

/// What a run has found.
pub struct Outcome {
    /// The report, in Markdown.
    pub text: String,
    /// Whether what was acknowledged was found on both sides.
    pub verified: bool,
}

/// Says what happens, with the time since the beginning, on standard error.
pub struct Notes(Instant);

impl Notes {
    /// Time begins now.
    #[must_use]
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// A line.
    pub fn say(&self, line: &str) {
        eprintln!("[{:>6.1} s] {line}", self.0.elapsed().as_secs_f64());
    }
}

/// What is loaded, in the order of the table.
fn plan(args: &Args) -> Vec<(Work, usize)> {
    let chosen = |work: &&Work| args.only.is_empty() || args.only.contains(work);
    let works = Work::value_variants().iter().filter(chosen);
    works.flat_map(|work| args.in_flight.iter().map(|in_flight| (*work, *in_flight))).collect()
}

fn most_in_flight(args: &Args) -> usize {
    args.in_flight.iter().copied().max().unwrap_or(1)
}

/// How long a run will take if nothing goes wrong.
#[must_use]
pub fn planned(args: &Args) -> Duration {
    let slice = Duration::from_secs(args.seconds) + SETTLE;
    let lines = plan(args).len() as u32;
    let warming = lines / args.in_flight.len().max(1) as u32;
    slice * 2 * (lines * args.rounds + warming * WARM_UPS) + Duration::from_secs(BESIDE_SECONDS)
}

/// Starts both sides and measures. Whoever calls stops them, whatever comes of it.
///
/// # Errors
/// When a side does not start, or one of its processes ends meanwhile.
pub async fn run(args: &Args, stack: &Stack, cluster: &mut Cluster, notes: &Notes) -> Result<Outcome> {
    stack.up(UP_LIMIT, &mut |_, line| notes.say(line)).await.context("starting three replicas")?;
    let jvm = stack.jvm_pids(0).first().copied().context("the Cassandra of a replica does not run")?;
    let template = Template::of(jvm)?;
    cluster.up(&template, &args.plain_settings, |line| notes.say(line)).await.context("starting plain Cassandra")?;
    let replicas: Vec<_> = (0..stack.settings().replicas).map(|i| stack.cql(i)).collect();
    let workers = most_in_flight(args);
    let sides = [
        Side::set_up("three replicas", &replicas, stack.all_processes(), workers).await?,
        Side::set_up("plain Cassandra", &cluster.cql(), cluster.processes(), workers).await?,
    ];
    notes.say("both sides are filled");
    warm_up(args, &sides, notes).await?;
    let slices = rounds(args, &sides, notes).await?;
    let (checks, verified) = check(&sides, notes).await;
    let mut text = format!("## Conditions\n\n{}", conditions(args, stack, &template, &sides).await?);
    text += &format!("\n## Comparison\n\n{}\n", table(&slices));
    for line in remarks(&slices).into_iter().chain(checks) {
        text += &format!("- {line}\n");
    }
    text += &format!("\n## Every slice\n\n{}", details(&slices));
    Ok(Outcome { text, verified })
}

/// Loads each side [`WARM_UPS`] times with everything that will be measured, with the most in flight.
async fn warm_up(args: &Args, sides: &[Side; 2], notes: &Notes) -> Result<()> {
    let most = most_in_flight(args);
    let lines: Vec<_> = plan(args).into_iter().filter(|(_, in_flight)| *in_flight == most).collect();
    for (work, _) in (0..WARM_UPS).flat_map(|_| &lines).copied() {
        for side in 0..sides.len() {
            let slice = one(sides, side, work, most, args).await?;
            notes.say(&format!("warming up {}, {}: {}", sides[side].name, work.title(), slice.line()));
        }
    }
    Ok(())
}

async fn rounds(args: &Args, sides: &[Side; 2], notes: &Notes) -> Result<Slices> {
    let mut slices = Slices::new();
    for round in 1..=args.rounds {
        for (work, in_flight) in plan(args) {
            let pair = [one(sides, 0, work, in_flight, args).await?, one(sides, 1, work, in_flight, args).await?];
            for (slice, name) in pair.iter().zip(["A", "B"]) {
                let what = format!("{} x{in_flight}", work.title());
                notes.say(&format!("round {round} of {}: {what:<28} {name} {}", args.rounds, slice.line()));
            }
            slices.entry((work, in_flight)).or_default().push(pair);
        }
    }
    Ok(slices)
}

async fn one(sides: &[Side; 2], side: usize, work: Work, in_flight: usize, args: &Args) -> Result<Slice> {
    let (before, begin) = (Usage::read(sides)?, Instant::now());
    let loaded = sides[side].load(work, in_flight, Duration::from_secs(args.seconds)).await?;
    let (usage, seconds) = (Usage::read(sides)?.since(&before), begin.elapsed().as_secs_f64());
    Ok(Slice { loaded, usage, side, seconds })
}

/// Looks whether what was acknowledged is there; lines for the report, and whether all is well.
async fn check(sides: &[Side; 2], notes: &Notes) -> (Vec<String>, bool) {
    let (mut lines, mut well) = (Vec::new(), true);
    for side in sides {
        notes.say(&format!("counting what {} holds", side.name));
        match verify(side).await {
            Ok(found) => lines.extend(found),
            Err(error) => {
                well = false;
                lines.push(format!("**FAILED**: {error:#}"));
            }
        }
    }
    (lines, well)
}
