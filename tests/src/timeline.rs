//! The picture of a run: acknowledged writes per 100 ms, what was deleted, who replayed when, as one HTML file that
//! needs nothing else.

use std::fmt::Write as _;

/// Width of a column of the histogram, in milliseconds.
const BUCKET_MS: u64 = 100;
const WIDTH: f64 = 1160.0;
const LEFT: f64 = 60.0;
const CHART_HEIGHT: f64 = 260.0;
const LANE_HEIGHT: f64 = 26.0;

/// A moment with a name: a pod deleted, a replica ready again.
#[derive(Clone, Debug)]
pub struct Event {
    /// Milliseconds since the epoch.
    pub at_ms: u64,
    /// What happened.
    pub label: String,
}

/// A stretch of time of one pod: away, or replaying.
#[derive(Clone, Debug)]
pub struct Span {
    /// The lane: a pod's name.
    pub lane: String,
    /// Milliseconds since the epoch.
    pub from_ms: u64,
    /// Milliseconds since the epoch; not before `from_ms`.
    pub to_ms: u64,
    /// What it was.
    pub label: String,
    /// Whether the pod was replaying the log in it (else it was away or starting).
    pub replaying: bool,
}

/// Everything that the picture shows.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// Heading.
    pub title: String,
    /// Times of acknowledged writes, milliseconds since the epoch, in any order.
    pub writes_ms: Vec<u64>,
    /// Moments, drawn as vertical lines.
    pub events: Vec<Event>,
    /// Stretches, a lane for each pod.
    pub spans: Vec<Span>,
}

impl Timeline {
    /// Acknowledged writes in each [`BUCKET_MS`] from the first to the last write.
    pub fn buckets(&self) -> Vec<u32> {
        let (Some(first), Some(last)) = (self.writes_ms.iter().min(), self.writes_ms.iter().max()) else {
            return Vec::new();
        };
        let mut counts = vec![0; ((last - first) / BUCKET_MS + 1) as usize];
        for at in &self.writes_ms {
            counts[((at - first) / BUCKET_MS) as usize] += 1;
        }
        counts
    }

    /// The longest time without an acknowledged write, in milliseconds.
    pub fn longest_pause_ms(&self) -> u64 {
        let mut sorted = self.writes_ms.clone();
        sorted.sort_unstable();
        sorted.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    /// The whole file.
    pub fn html(&self) -> String {
        let first = self.writes_ms.iter().min().copied().unwrap_or(0);
        let end = self.writes_ms.iter().chain(self.spans.iter().map(|s| &s.to_ms)).max().copied().unwrap_or(first + 1);
        let duration = (end - first).max(1) as f64;
        let x = |at: u64| LEFT + (at.saturating_sub(first)) as f64 / duration * (WIDTH - LEFT - 10.0);
        let lanes = self.lanes();
        let height = CHART_HEIGHT + 60.0 + LANE_HEIGHT * lanes.len() as f64;
        let mut svg = format!(
            "<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{}' xmlns='http://www.w3.org/2000/svg'>\n",
            escape(&self.title)
        );
        self.draw_writes(&mut svg, first, &x);
        self.draw_events(&mut svg, height, &x);
        self.draw_lanes(&mut svg, &lanes, &x);
        draw_axis(&mut svg, duration);
        svg.push_str("</svg>");
        format!(
            "<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title><style>{STYLE}</style>\n<h1>{title}</h1>\
             <p>Acknowledged writes per {BUCKET_MS} ms: {} in {:.1} s, longest pause {} ms. Below: each pod's absence (grey) \
             and replay of the log (orange).</p>\n{svg}\n</html>\n",
            self.writes_ms.len(),
            duration / 1000.0,
            self.longest_pause_ms(),
            title = escape(&self.title),
        )
    }

    fn lanes(&self) -> Vec<&str> {
        let mut lanes: Vec<&str> = self.spans.iter().map(|span| span.lane.as_str()).collect();
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }

    fn draw_writes(&self, svg: &mut String, first: u64, x: &impl Fn(u64) -> f64) {
        let buckets = self.buckets();
        let top = buckets.iter().copied().max().unwrap_or(1).max(1);
        for (i, count) in buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            let from = x(first + i as u64 * BUCKET_MS);
            let width = (x(first + (i as u64 + 1) * BUCKET_MS) - from).max(0.3);
            let height = f64::from(*count) / f64::from(top) * (CHART_HEIGHT - 40.0);
            let _ = writeln!(
                svg,
                "<rect class='w' x='{from:.1}' y='{:.1}' width='{width:.2}' height='{height:.1}'/>",
                CHART_HEIGHT - height
            );
        }
        let _ = writeln!(svg, "<text x='4' y='{:.0}'>{top}</text><text x='4' y='{CHART_HEIGHT}'>0</text>", 48.0);
    }

    fn draw_events(&self, svg: &mut String, height: f64, x: &impl Fn(u64) -> f64) {
        for (i, event) in self.events.iter().enumerate() {
            let at = x(event.at_ms);
            let y = 12.0 + (i % 3) as f64 * 12.0;
            let _ = writeln!(
                svg,
                "<line class='e' x1='{at:.1}' x2='{at:.1}' y1='{y}' y2='{height}'/><text x='{:.1}' y='{y}'>{}</text>",
                at + 3.0,
                escape(&event.label)
            );
        }
    }

    fn draw_lanes(&self, svg: &mut String, lanes: &[&str], x: &impl Fn(u64) -> f64) {
        for (i, lane) in lanes.iter().enumerate() {
            let y = CHART_HEIGHT + 40.0 + LANE_HEIGHT * i as f64;
            let _ = writeln!(svg, "<text x='4' y='{:.0}'>{}</text>", y - 3.0, escape(lane));
            for span in self.spans.iter().filter(|span| span.lane == *lane) {
                let (from, to) = (x(span.from_ms), x(span.to_ms));
                let _ = writeln!(
                    svg,
                    "<rect class='{}' x='{from:.1}' y='{y:.1}' width='{:.1}' height='9'><title>{}</title></rect>",
                    if span.replaying { "r" } else { "a" },
                    (to - from).max(1.5),
                    escape(&span.label)
                );
            }
        }
    }
}

const STYLE: &str = "body{font:15px system-ui,sans-serif;margin:2em;max-width:1200px}svg{width:100%;border:1px solid #ddd}\
svg text{font:10px system-ui,sans-serif}.w{fill:#2a7ab8}.e{stroke:#c0392b;stroke-dasharray:3 2}.a{fill:#999}.r{fill:#e67e22}";

fn draw_axis(svg: &mut String, duration_ms: f64) {
    let step = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0]
        .into_iter()
        .find(|s| duration_ms / 1000.0 / s <= 12.0)
        .unwrap_or(300.0);
    let mut second = 0.0;
    while second * 1000.0 <= duration_ms {
        let at = LEFT + second * 1000.0 / duration_ms * (WIDTH - LEFT - 10.0);
        let _ = writeln!(svg, "<text x='{at:.1}' y='{}'>{second} s</text>", CHART_HEIGHT + 14.0);
        second += step;
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Timeline {
        Timeline {
            title: "a <run>".into(),
            writes_ms: vec![1350, 1000, 1010, 1099, 1100],
            events: vec![Event { at_ms: 1100, label: "x & y".into() }],
            spans: vec![Span {
                lane: "replica-0".into(),
                from_ms: 1100,
                to_ms: 1200,
                label: "replay".into(),
                replaying: true,
            }],
        }
    }

    #[test]
    fn writes_are_counted_per_bucket_whatever_their_order() {
        assert_eq!(sample().buckets(), [3, 1, 0, 1]);
        assert_eq!(sample().longest_pause_ms(), 250);
        assert!(Timeline::default().buckets().is_empty());
    }

    #[test]
    fn text_from_outside_is_escaped_and_the_file_stands_alone() {
        let html = sample().html();
        assert!(html.contains("a &lt;run&gt;") && html.contains("x &amp; y"));
        assert_eq!(html.matches("class='w'").count(), 3);
        assert_eq!(html.matches("class='r'").count(), 1);
        assert!(!html.contains("src=") && !html.contains("href="), "one file, nothing to fetch");
    }
}
