//! What was found, in Markdown.

use std::time::Instant;

use super::PointsArgs;
use super::paced::{Answer, Found, Latencies, longest_gap};
use super::recovery::Recovered;
use super::scrape::{PHASES, Point};

/// Time before and after a restore point that counts as around it, µs.
const AROUND: u64 = 300_000;
/// A rate counts as held if no more than this share of the requests is missing.
const MISSING: f64 = 0.01;

/// A run.
pub struct Report<'a> {
    /// What was asked for.
    pub args: &'a PointsArgs,
    /// When the load began.
    pub began: Instant,
    /// In which restore points were measured, µs since then.
    pub window: [u64; 2],
    /// Those that were.
    pub points: Vec<Point>,
    /// After kills.
    pub recovered: Vec<Recovered>,
    /// Of the load as a whole.
    pub found: Found,
    /// Acknowledged rows that were read again.
    pub checked: usize,
}

/// The parts of a restore point in ms.
#[must_use]
pub fn parts(point: &Point) -> String {
    let parts = PHASES.iter().zip(point.phases).map(|(name, seconds)| format!("{name} {:.0}", seconds * 1000.0));
    format!("{}, held {:.0} ms", parts.collect::<Vec<_>>().join(", "), point.held * 1000.0)
}

impl Report<'_> {
    /// Everything.
    #[must_use]
    pub fn text(&self) -> String {
        let PointsArgs { replicas, zookeepers, rate, in_flight, records, heap, profile, .. } = self.args;
        let mut text = format!(
            "- {replicas} replica(s) with a Cassandra each (heap {heap}, profile {profile}), {zookeepers} ZooKeeper \
             server(s); a restore point every {records} records{}; {rate} inserts/s, at most {in_flight} on their way.\n",
            self.args.interval.map(|seconds| format!(" or {seconds} s")).unwrap_or_default(),
        );
        text += &format!("- {}\n", self.rate());
        text += &self.table();
        for recovered in &self.recovered {
            text += &format!("- {}\n", recovered.line());
        }
        let Found { answers, failed, left_out, .. } = &self.found;
        text += &format!(
            "- In all {} rows acknowledged, {failed} requests failed, {left_out} were left out; {} of the rows read again, \
             all there.\n",
            answers.len(),
            self.checked
        );
        text
    }

    /// The inserts of the time in which restore points were measured.
    fn measured(&self) -> impl Iterator<Item = &Answer> {
        self.found.answers.iter().filter(|answer| self.is_measured(answer))
    }

    fn is_measured(&self, answer: &Answer) -> bool {
        (self.window[0]..=self.window[1]).contains(&answer.done)
    }

    fn rate(&self) -> String {
        let seconds = (self.window[1] - self.window[0]) as f64 / 1e6;
        let (count, wanted) = (self.measured().count(), f64::from(self.args.rate) * seconds);
        let held = if count as f64 >= wanted * (1.0 - MISSING) { "held" } else { "NOT held" };
        format!(
            "{count} acknowledged in {seconds:.1} s, {:.0}/s: the rate was {held}. From when a request was due to its answer, \
             p50, p99, longest: {} ms.",
            count as f64 / seconds,
            Latencies::of(self.measured()).line()
        )
    }

    /// From the beginning of a restore point to its end, and some time around it; µs since the beginning.
    fn around(&self, point: &Point) -> (u64, u64) {
        let end = point.at.duration_since(self.began).as_micros() as u64;
        let whole = (point.whole() * 1e6) as u64;
        (end.saturating_sub(whole + AROUND), end + AROUND)
    }

    fn table(&self) -> String {
        let mut text = format!(
            "\n| replica | {} | lanes held | longest gap between answers | p50, p99, longest around it | longest read at `ONE` around it |\n\
             |---|{}---|---|---|---|\n",
            PHASES.join(" | "),
            "---|".repeat(PHASES.len())
        );
        for point in &self.points {
            let (from, to) = self.around(point);
            let gap = longest_gap(&self.found.answers, point.replica, from, to);
            let near = |answer: &&Answer| answer.replica == point.replica && (from..=to).contains(&answer.done);
            let latencies = Latencies::of(self.found.answers.iter().filter(near));
            let reads = Latencies::of(self.found.reads.iter().filter(near)).at(1.0);
            let phases = point.phases.map(|seconds| format!("{:.0}", seconds * 1000.0)).join(" | ");
            text += &format!(
                "| {} | {phases} | **{:.0}** | **{gap:.0}** | {} | {reads:.1} |\n",
                point.replica,
                point.held * 1000.0,
                latencies.line()
            );
        }
        text + &self.beside()
    }

    /// How it is away from restore points, for comparison.
    fn beside(&self) -> String {
        let windows: Vec<_> = self.points.iter().map(|point| (point.replica, self.around(point))).collect();
        let away = |answer: &&Answer| {
            !windows
                .iter()
                .any(|(replica, (from, to))| *replica == answer.replica && (*from..=*to).contains(&answer.done))
        };
        let line = Latencies::of(self.measured().filter(away)).line();
        let reads = Latencies::of(self.found.reads.iter().filter(|read| self.is_measured(read))).line();
        format!(
            "\nAll in ms. Away from restore points, p50, p99, longest: {line} ms. Reads at `ONE` in all, p50, p99, longest: {reads} \
             ms.\n\n"
        )
    }
}
