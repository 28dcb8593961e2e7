//! The tables of a run, in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use replicateddb_tests::load::Loaded;

use crate::{meter::Usage, work::Work};

/// What else may use of the machine in a slice without it being flagged, processors.
const QUIET: f64 = 0.2;

/// One slice of load on one side.
pub struct Slice {
    /// What the load tool saw.
    pub loaded: Loaded,
    /// CPU from the first request until the end of the pause behind the last.
    pub usage: Usage,
    /// Which side was loaded: 0 or 1.
    pub side: usize,
    /// The length of all that, seconds.
    pub seconds: f64,
}

impl Slice {
    /// CPU of the side for each answered request, ms.
    #[must_use]
    pub fn cpu_each(&self) -> f64 {
        self.usage.sides[self.side] * 1000.0 / self.loaded.latencies.len().max(1) as f64
    }

    /// A line for people who watch.
    #[must_use]
    pub fn line(&self) -> String {
        let (loaded, failed) = (&self.loaded, self.loaded.failed());
        let errors = if failed == 0 { String::new() } else { format!("  FAILED {failed}: {:?}", loaded.errors) };
        format!(
            "{:>7.0}/s  p50 {:>7.2} ms  p99 {:>7.2} ms  CPU {:>6.3} ms each, others {:.2} processors{errors}",
            loaded.per_second(),
            loaded.at(0.5),
            loaded.at(0.99),
            self.cpu_each(),
            self.others()
        )
    }

    fn others(&self) -> f64 {
        self.usage.others / self.seconds.max(f64::MIN_POSITIVE)
    }
}

/// The slices of a run: of each work load and number in flight, a pair for each round.
pub type Slices = BTreeMap<(Work, usize), Vec<[Slice; 2]>>;

/// The rounds that a line of the table is made of: those in which neither slice was disturbed by other work, or all when
/// there is no such.
fn told(rounds: &[[Slice; 2]]) -> Vec<&[Slice; 2]> {
    let quiet: Vec<_> = rounds.iter().filter(|pair| pair.iter().all(|slice| slice.others() <= QUIET)).collect();
    if quiet.is_empty() { rounds.iter().collect() } else { quiet }
}

/// The middle of some numbers, the least and the most; zeros when there are none.
fn spread(numbers: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut sorted: Vec<f64> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else { return (0.0, 0.0, 0.0) };
    let middle = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
    (middle, *least, *most)
}

/// The main table: A and B are the two sides; each figure is the middle one of the rounds that were not disturbed, each ratio
/// that of the ratios of these rounds, with the least and the most of them.
#[must_use]
pub fn table(slices: &Slices) -> String {
    let mut text =
        "| work load | in flight | A/s | B/s | **A/B** | p50 A, B ms | p99 A, B ms | CPU per request A, B ms | \
                    **A/B of CPU** | rounds | errors A, B |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for ((work, in_flight), all) in slices {
        let rounds = told(all);
        let of = |side: usize, what: fn(&Slice) -> f64| spread(rounds.iter().map(|pair| what(&pair[side]))).0;
        let both =
            |what: fn(&Slice) -> f64, digits: usize| format!("{:.digits$}, {:.digits$}", of(0, what), of(1, what));
        let ratio = |what: fn(&Slice) -> f64| {
            let (middle, least, most) = spread(rounds.iter().map(|pair| what(&pair[0]) / what(&pair[1])));
            format!("**{middle:.2}** ({least:.2} to {most:.2})")
        };
        let rate: fn(&Slice) -> f64 = |slice| slice.loaded.per_second();
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "| {} | {in_flight} | {:.0} | {:.0} | {} | {} | {} | {} | {} | {} of {} | {} |",
            work.title(),
            of(0, rate),
            of(1, rate),
            ratio(rate),
            both(|slice| slice.loaded.at(0.5), 1),
            both(|slice| slice.loaded.at(0.99), 1),
            both(Slice::cpu_each, 3),
            ratio(Slice::cpu_each),
            rounds.len(),
            all.len(),
            errors(all)
        );
    }
    text
}

fn errors(rounds: &[[Slice; 2]]) -> String {
    let failed = |side: usize| rounds.iter().map(|pair| pair[side].loaded.failed()).sum::<usize>();
    match (failed(0), failed(1)) {
        (0, 0) => "0, 0".to_owned(),
        (a, b) => format!("**FAILED: {a}, {b}**"),
    }
}

/// What bears on how far the table can be trusted: other use of the machine, the idle side's, the load tool's, and each slice
/// with errors.
#[must_use]
pub fn remarks(slices: &Slices) -> Vec<String> {
    let all = || slices.values().flatten().flatten();
    let shares = |what: fn(&Slice) -> f64| spread(all().map(|slice| what(slice) / slice.seconds));
    let (middle, least, most) = shares(|slice| slice.usage.others);
    let noisy = all().filter(|slice| slice.others() > QUIET).count();
    let idle = shares(|slice| slice.usage.sides[1 - slice.side]);
    let tool = shares(|slice| slice.usage.tool);
    let mut lines = vec![
        format!(
            "Used by everything else on the machine, in a slice: {middle:.2} processors ({least:.2} to {most:.2}); more than \
             {QUIET} in {noisy} of {} slices.",
            all().count()
        ),
        format!("Used by the idle side meanwhile: {:.2} processors ({:.2} to {:.2}).", idle.0, idle.1, idle.2),
        format!("Used by the load tool: {:.2} processors ({:.2} to {:.2}).", tool.0, tool.1, tool.2),
    ];
    for ((work, in_flight), rounds) in slices {
        for (round, pair) in rounds.iter().enumerate() {
            for slice in pair.iter().filter(|slice| slice.loaded.failed() > 0) {
                let side = ["A", "B"][slice.side];
                let (title, errors) = (work.title(), &slice.loaded.errors);
                let (failed, round) = (slice.loaded.failed(), round + 1);
                lines.push(format!(
                    "**FAILED**: {failed} requests of {side}, {title}, {in_flight} in flight, round {round}: {errors:?}"
                ));
            }
        }
    }
    lines
}

/// Every slice by itself, for those who want to calculate otherwise.
#[must_use]
pub fn details(slices: &Slices) -> String {
    let mut text =
        "| work load | in flight | round | side | answered | failed | per second | p50 ms | p99 ms | longest ms | \
                    CPU s | others' CPU s |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for ((work, in_flight), rounds) in slices {
        for (round, slice) in
            rounds.iter().enumerate().flat_map(|(round, pair)| pair.iter().map(move |one| (round, one)))
        {
            let (loaded, usage) = (&slice.loaded, &slice.usage);
            let _ = writeln!(
                text,
                "| {} | {in_flight} | {} | {} | {} | {} | {:.0} | {:.2} | {:.2} | {:.1} | {:.2} | {:.2} |",
                work.title(),
                round + 1,
                ["A", "B"][slice.side],
                loaded.latencies.len(),
                loaded.failed(),
                loaded.per_second(),
                loaded.at(0.5),
                loaded.at(0.99),
                loaded.at(1.0),
                usage.sides[slice.side],
                usage.others
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn slice(side: usize, answered: usize, failed: usize) -> Slice {
        disturbed(side, answered, failed, 0.1)
    }

    fn disturbed(side: usize, answered: usize, failed: usize, others: f64) -> Slice {
        let errors = if failed > 0 { BTreeMap::from([("no".to_owned(), failed)]) } else { BTreeMap::new() };
        let loaded = Loaded { latencies: vec![2_000; answered], errors, elapsed: Duration::from_secs(1) };
        Slice { loaded, usage: Usage { sides: [2.0, 4.0], tool: 0.1, others }, side, seconds: 1.5 }
    }

    #[test]
    fn ratios_are_of_rounds_and_errors_are_flagged() {
        let rounds = vec![[slice(0, 100, 0), slice(1, 100, 0)], [slice(0, 300, 0), slice(1, 100, 7)]];
        let slices = Slices::from([((Work::ReadOne, 64), rounds)]);
        let row = table(&slices).lines().last().unwrap().to_owned();
        assert!(row.contains("| 200 | 100 | **2.00** (1.00 to 3.00) |"), "{row}");
        assert!(row.contains("**FAILED: 0, 7**"), "{row}");
        assert!(remarks(&slices).last().unwrap().contains("7 requests of B"));
        assert_eq!(details(&slices).lines().count(), 2 + 4);
    }

    #[test]
    fn disturbed_rounds_are_left_out_unless_all_are() {
        let noisy = || [disturbed(0, 900, 0, 1.0), slice(1, 100, 0)];
        let row = |rounds| table(&Slices::from([((Work::Insert, 1), rounds)])).lines().last().unwrap().to_owned();
        let one = row(vec![[slice(0, 100, 0), slice(1, 100, 0)], noisy()]);
        assert!(one.contains("**1.00** (1.00 to 1.00)") && one.contains("| 1 of 2 |"), "{one}");
        let none = row(vec![noisy(), noisy()]);
        assert!(none.contains("**9.00** (9.00 to 9.00)") && none.contains("| 2 of 2 |"), "{none}");
    }

    #[test]
    fn the_middle_of_an_even_number_lies_between() {
        assert_eq!(spread([4.0, 1.0, 2.0, 3.0].into_iter()), (2.5, 1.0, 4.0));
        assert_eq!(spread([].into_iter()), (0.0, 0.0, 0.0));
    }
}
