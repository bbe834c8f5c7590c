//! What `top` shows, drawn on any size of terminal: what doesn't fit is left out, the budgets last.

use chrono::{DateTime, Utc};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::Line,
    widgets::{Cell, Paragraph, Row, Table},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{cli::output::plain, domain::Lane, fleet::MeterReading};

/// What of the overview is drawn.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Overview {
    namespace: String,
    time: Option<DateTime<Utc>>,
    ready: bool,
    reasons: Vec<String>,
    notes: Vec<String>,
    calls_in_flight: u64,
    workers: Vec<Worker>,
    /// How old the workers' reports are; `None`: none was read yet.
    workers_age_seconds: Option<f64>,
    budgets: Vec<MeterReading>,
    lanes: Vec<LaneDepth>,
    dead_letters: Option<u64>,
    backlog: Option<Backlog>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Worker {
    state: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct LaneDepth {
    lane: String,
    ready: Option<u64>,
    due: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Backlog {
    work: u64,
    past_due: u64,
    doubts: u64,
    outbox: u64,
}

/// A picture.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    overview: Option<Overview>,
    /// Why there is no newer one.
    trouble: Option<String>,
    held: bool,
}

/// A column: its head, its width, and from which width of the terminal on it is shown.
type Column = (&'static str, u16, u16, fn(&MeterReading) -> Cell<'static>);

const COLUMNS: [Column; 11] = [
    ("APP", 14, 0, |meter| Cell::from(app(meter))),
    ("COMMAND", 22, 0, |meter| Cell::from(plain(&meter.command))),
    ("LIMIT/S", 9, 70, |meter| right(&limit(meter.effective), 9)),
    ("NOW/S", 7, 0, |meter| used(meter)),
    ("LAST MIN", 9, 90, |meter| right(&grouped(meter.used_minute), 9)),
    ("RECIPIENTS/MIN", 15, 110, |meter| right(&recipients(meter), 15)),
    ("HIGH", 6, 60, |meter| waiting(meter, Lane::High)),
    ("NORMAL", 6, 60, |meter| waiting(meter, Lane::Normal)),
    ("BULK", 6, 60, |meter| waiting(meter, Lane::Bulk)),
    ("OLDEST", 7, 80, |meter| {
        right(&meter.oldest_wait.map_or_else(String::new, age), 7)
    }),
    ("STATE", 16, 46, state),
];

impl View {
    /// Before the first answer.
    pub(super) fn waiting(url: &str) -> Self {
        Self {
            trouble: Some(format!("asking {url}")),
            ..Self::default()
        }
    }

    /// Of an overview.
    pub(super) fn of(overview: &Value) -> anyhow::Result<Self> {
        Ok(Self {
            overview: Some(Overview::deserialize(overview)?),
            ..Self::default()
        })
    }

    /// The last look failed; what was seen before stays.
    pub(super) fn failed(&mut self, error: &anyhow::Error) {
        self.trouble = Some(format!("{error:#}"));
    }

    /// Holds the picture still, or lets it go on.
    pub(super) const fn hold(&mut self) {
        self.held = !self.held;
    }

    /// Whether it is held.
    pub(super) const fn is_held(&self) -> bool {
        self.held
    }

    /// Lines that show everything.
    pub(super) fn height(&self) -> u16 {
        let budgets = self.overview.as_ref().map(|overview| overview.budgets.len());
        (budgets.unwrap_or(0) + self.below().len() + 4).min(usize::from(u16::MAX)) as u16
    }

    /// Draws it.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let below = self.below();
        // The table keeps three lines as long as there are any.
        let spare = area.height.saturating_sub(2 + 3);
        let rows = [
            Constraint::Length(1),
            Constraint::Min(1),
            Constraint::Length((below.len() as u16).min(spare)),
            Constraint::Length(u16::from(area.height >= 4)),
        ];
        let [head, middle, foot, keys] = Layout::vertical(rows).areas(area);
        frame.render_widget(Paragraph::new(self.head()), head);
        self.table(frame, middle);
        frame.render_widget(Paragraph::new(below), foot);
        let pausing = if self.held { "p go on  (held)" } else { "p hold" };
        frame.render_widget(Paragraph::new(format!("q quit  {pausing}")).dim(), keys);
    }

    fn head(&self) -> Line<'static> {
        let Some(overview) = &self.overview else {
            return Line::from(self.trouble.clone().unwrap_or_default()).red();
        };
        let there = overview.workers.iter().filter(|worker| worker.state != "gone").count();
        let gone = overview.workers.len() - there;
        let workers = match (there, overview.workers_age_seconds) {
            (_, None) => "workers unknown yet".to_owned(),
            (1, _) => "1 worker".to_owned(),
            (count, _) => format!("{count} workers"),
        };
        let workers = match gone {
            0 => workers,
            gone => [workers, format!(", {gone} gone")].concat(),
        };
        let ready = if overview.ready { "ready" } else { "NOT READY" };
        let time = overview
            .time
            .map_or_else(String::new, |time| time.format("  %H:%M:%S UTC").to_string());
        let text = format!(
            "{}  {workers}  {ready}  {} calls in flight here{time}",
            plain(&overview.namespace),
            overview.calls_in_flight
        );
        let line = Line::from(text).bold();
        if overview.ready { line } else { line.red() }
    }

    fn table(&self, frame: &mut Frame<'_>, area: Rect) {
        let Some(overview) = &self.overview else { return };
        let columns: Vec<&Column> = COLUMNS.iter().filter(|column| column.2 <= area.width).collect();
        let rows = overview.budgets.iter().map(|meter| {
            let row = Row::new(columns.iter().map(|column| (column.3)(meter)));
            if meter.used_minute == 0 && meter.oldest_wait.is_none() {
                row.style(Style::new().add_modifier(Modifier::DIM))
            } else {
                row
            }
        });
        let widths = columns.iter().map(|column| Constraint::Length(column.1));
        let head = columns.iter().map(|&&(name, width, ..)| {
            let numeric = !matches!(name, "APP" | "COMMAND" | "STATE");
            if numeric {
                right(&name.to_owned(), width)
            } else {
                Cell::from(name)
            }
        });
        let table = Table::new(rows, widths)
            .header(Row::new(head).style(Style::new().add_modifier(Modifier::REVERSED)))
            .column_spacing(1);
        frame.render_widget(table, area);
    }

    /// What stands below the budgets: troubles first.
    fn below(&self) -> Vec<Line<'static>> {
        let mut lines = Vec::new();
        let Some(overview) = &self.overview else { return lines };
        if let Some(trouble) = &self.trouble {
            lines.push(Line::from(plain(trouble)).red());
        }
        lines.extend(overview.reasons.iter().map(|reason| Line::from(plain(reason)).red()));
        if overview.budgets.is_empty() {
            lines.push(Line::from("no call has been made yet"));
        }
        let count = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), grouped);
        if !overview.lanes.is_empty() {
            let waiting = overview.lanes.iter();
            let waiting: Vec<String> = waiting
                .map(|lane| format!("{} {} + {} due", plain(&lane.lane), count(lane.ready), count(lane.due)))
                .collect();
            let dead = count(overview.dead_letters);
            lines.push(Line::from(format!(
                "ready in queues: {}  dead {dead}",
                waiting.join("  ")
            )));
        }
        if let Some(backlog) = overview.backlog {
            lines.push(Line::from(format!(
                "table: {} rows, {} past due  in doubt: {}  outbox: {}",
                grouped(backlog.work),
                grouped(backlog.past_due),
                grouped(backlog.doubts),
                grouped(backlog.outbox)
            )));
        }
        lines.extend(overview.notes.iter().map(|note| Line::from(plain(note)).yellow()));
        lines
    }
}

fn right(text: &dyn std::fmt::Display, width: u16) -> Cell<'static> {
    let text = text.to_string();
    Cell::from(format!("{text:>width$}", width = usize::from(width)))
}

fn app(meter: &MeterReading) -> String {
    if meter.app.is_empty() {
        meter.sdk_app_id.to_string()
    } else {
        plain(&meter.app)
    }
}

fn limit(calls_per_second: u32) -> String {
    match calls_per_second {
        0 => "none".to_owned(),
        limit => grouped(limit.into()),
    }
}

fn used(meter: &MeterReading) -> Cell<'static> {
    let cell = right(&grouped(meter.used), 7);
    match meter.effective {
        0 => cell,
        limit if meter.used * 10 >= u64::from(limit) * 9 => cell.style(Color::Yellow),
        _ => cell.style(Color::Green),
    }
}

fn recipients(meter: &MeterReading) -> String {
    match (meter.recipients_used, meter.recipients_effective) {
        (0, 0) => String::new(),
        (used, 0) => grouped(used),
        (used, limit) => format!("{}/{}", grouped(used), grouped(limit.into())),
    }
}

fn waiting(meter: &MeterReading, lane: Lane) -> Cell<'static> {
    match meter.waiting[lane.index()] {
        0 => right(&"·".to_owned(), 6),
        count => right(&grouped(count as u64), 6),
    }
}

fn state(meter: &MeterReading) -> Cell<'static> {
    if meter.paused_for.is_some_and(|seconds| seconds > 0.0) {
        return Cell::from("THROTTLED").style(Color::Red);
    }
    let share = |now: u32, set: u32| if set == 0 { 1.0 } else { f64::from(now) / f64::from(set) };
    let share = share(meter.effective, meter.limit).min(share(meter.recipients_effective, meter.recipients_limit));
    if share < 1.0 {
        return Cell::from(format!("SLOWED TO {:.0} %", share * 100.0)).style(Color::Red);
    }
    if meter.limit == 0 && meter.recipients_limit == 0 {
        return Cell::from("unlimited");
    }
    Cell::from(if meter.oldest_wait.is_some() {
        "at the limit"
    } else {
        "free"
    })
}

/// A time in seconds that is read at a glance.
fn age(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1_000.0)
    } else if seconds < 100.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{:.0} min", seconds / 60.0)
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};
    use serde_json::json;

    use super::*;

    fn overview() -> Value {
        let meter = |command: &str, calls: u32, recipients: u32, waiting: u64| {
            json!({
                "host": "im.example", "sdk_app_id": 1_400_000_000, "app": "shop", "command": command,
                "limit": 200, "effective": calls, "recipients_limit": recipients, "recipients_effective": recipients,
                "used": 199, "used_minute": 11_940, "recipients_used": if recipients > 0 { 11_500 } else { 0 },
                "waiting": [0, 3, waiting], "oldest_wait": 3.25, "paused_for": null, "throttled": 4, "workers": 4
            })
        };
        json!({
            "namespace": "im", "time": "2026-11-24T16:20:05Z", "ready": true, "reasons": [],
            "notes": ["lane bulk is paused by an operator until it is resumed"], "calls_in_flight": 9,
            "workers": [{"state": "ready"}, {"state": "ready"}, {"state": "gone"}], "workers_age_seconds": 0.4,
            "budgets": [meter("sendmsg", 200, 0, 100), meter("batchsendmsg", 100, 12_000, 0)],
            "lanes": [{"lane": "high", "ready": 0, "due": 0}, {"lane": "bulk", "ready": 99_800, "due": null}],
            "dead_letters": 2, "backlog": {"work": 12, "past_due": 0, "doubts": 1, "outbox": 0}
        })
    }

    fn drawn(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |row| {
            (0..width)
                .map(|column| buffer[(column, row)].symbol())
                .collect::<String>()
        };
        (0..height).map(line).collect()
    }

    #[test]
    fn a_wide_terminal_shows_everything_that_is_known_of_the_fleet() {
        let lines = drawn(&View::of(&overview()).unwrap(), 130, 12);
        let text = lines.join("\n");
        assert!(
            lines[0].starts_with("im  2 workers, 1 gone  ready  9 calls in flight here  16:20:05 UTC"),
            "{text}"
        );
        for column in COLUMNS {
            assert!(lines[1].contains(column.0), "{} is not in {}", column.0, lines[1]);
        }
        for word in [
            "shop",
            "sendmsg",
            "200",
            "199",
            "11,940",
            "100",
            "3.2 s",
            "at the limit",
        ] {
            assert!(lines[2].contains(word), "{word} is not in {}", lines[2]);
        }
        for word in ["batchsendmsg", "11,500/12,000", "SLOWED TO 50 %"] {
            assert!(lines[3].contains(word), "{word} is not in {}", lines[3]);
        }
        for word in [
            "bulk 99,800",
            "dead 2",
            "in doubt: 1",
            "paused by an operator",
            "q quit  p hold",
        ] {
            assert!(text.contains(word), "{word} is not in\n{text}");
        }
    }

    #[test]
    fn a_narrow_or_low_terminal_keeps_what_matters_most() {
        let view = View::of(&overview()).unwrap();
        let narrow = drawn(&view, 50, 12);
        assert!(narrow[1].contains("NOW/S") && narrow[1].contains("STATE") && !narrow[1].contains("OLDEST"));
        let low = drawn(&view, 130, 5);
        assert!(low[2].contains("sendmsg") && low[3].contains("batchsendmsg"), "{low:?}");
        // Whatever the size, it is drawn without a panic.
        for (width, height) in [(1, 1), (2, 2), (10, 3), (200, 1), (3, 80)] {
            drawn(&view, width, height);
            drawn(&View::waiting("http://127.0.0.1:8080/api/overview"), width, height);
        }
    }

    #[test]
    fn a_worker_that_does_not_answer_is_said_and_what_was_seen_stays() {
        let mut view = View::of(&overview()).unwrap();
        view.failed(&anyhow::anyhow!("no worker answers"));
        view.hold();
        let text = drawn(&view, 130, 14).join("\n");
        assert!(
            text.contains("no worker answers") && text.contains("sendmsg") && text.contains("(held)"),
            "{text}"
        );
    }

    #[test]
    fn a_throttled_key_and_workers_that_nobody_has_read_are_seen() {
        let mut away = overview();
        away["budgets"][0]["paused_for"] = json!(0.7);
        away["workers_age_seconds"] = Value::Null;
        let text = drawn(&View::of(&away).unwrap(), 130, 12).join("\n");
        assert!(
            text.contains("THROTTLED") && text.contains("workers unknown yet"),
            "{text}"
        );
    }

    #[test]
    fn numbers_and_times_are_read_at_a_glance() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!([0.005, 3.25, 600.0].map(age), ["5 ms", "3.2 s", "10 min"]);
    }
}
