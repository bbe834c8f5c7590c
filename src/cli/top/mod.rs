//! `top`: the budgets, lanes and workers of the whole fleet, live, as one worker's API tells them.

mod source;
mod view;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::Duration,
};

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::{Terminal, backend::TestBackend};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::config::Settings;

use super::{
    args::patience,
    output::{json, line, usage},
};
use source::Source;
use view::View;

/// The size of a frame that is printed where there is no terminal: wide enough for every column.
const PRINTED: (u16, u16) = (120, 24);
/// How long the thread that reads keys waits before it looks whether it is still needed.
const KEY_WAIT: Duration = Duration::from_millis(200);

/// Flags of `top`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A worker's HTTP address [default: http.addr of the settings]; any worker tells of all
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// How often to look, in seconds or such as 500ms
    #[arg(long, value_name = "S", default_value = "1")]
    every: String,
    /// Print one frame and end
    #[arg(long)]
    once: bool,
    /// With --once: the API's overview, for machines
    #[arg(long, requires = "once")]
    json: bool,
}

pub(super) async fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let every = patience("--every", &args.every)?.max(Duration::from_millis(100));
    let source = Source::new(settings, args.url.as_deref())?;
    if args.once {
        let overview = source.look().await?;
        if args.json {
            json(&overview)?;
        } else {
            print(&View::of(&overview)?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(usage("top draws on a terminal, and this is none: use --once, with --json for machines").into());
    }
    watch(&source, every).await?;
    Ok(ExitCode::SUCCESS)
}

/// One frame as text.
fn print(view: &View) -> anyhow::Result<()> {
    let (width, height) = match crossterm::terminal::size() {
        Ok((width, height)) if io::stdout().is_terminal() => (width.max(40), height),
        _ => PRINTED,
    };
    let mut terminal = Terminal::new(TestBackend::new(width, height.max(view.height())))?;
    terminal.draw(|frame| view.draw(frame))?;
    let buffer = terminal.backend().buffer();
    let mut lines: Vec<String> = (0..buffer.area.height)
        .map(|row| {
            let cells = (0..buffer.area.width).map(|column| buffer[(column, row)].symbol());
            cells.collect::<String>().trim_end().to_owned()
        })
        .collect();
    // The last line tells the keys.
    lines.pop();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    for text in lines {
        line(text)?;
    }
    Ok(())
}

/// The terminal in raw mode; given back however this ends. A panic gives it back before its message is printed.
struct Screen(ratatui::DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Self> {
        ratatui::try_init().map(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Draws until somebody has seen enough.
async fn watch(source: &Source, every: Duration) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut screen = Screen::open()?;
    let (sender, mut keys) = mpsc::channel(16);
    std::thread::spawn(move || read_keys(&sender));
    let mut view = View::waiting(source.url());
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        screen.0.draw(|frame| view.draw(frame))?;
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            event = keys.recv() => match event {
                Some(Event::Key(key)) if key.kind == KeyEventKind::Press => match act_of(key) {
                    Some(Act::Quit) => return Ok(()),
                    Some(Act::Hold) => view.hold(),
                    None => {}
                },
                // Another size: drawn anew.
                Some(_) => {}
                None => return Ok(()),
            },
            _ = ticks.tick() => if !view.is_held() {
                match source.look().await.and_then(|overview| View::of(&overview)) {
                    Ok(fresh) => view = fresh,
                    Err(error) => view.failed(&error),
                }
            },
        }
    }
}

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
enum Act {
    Quit,
    Hold,
}

fn act_of(key: KeyEvent) -> Option<Act> {
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Act::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Act::Quit),
        KeyCode::Char('p' | ' ') => Some(Act::Hold),
        _ => None,
    }
}

/// Reads keys until nobody wants them, or the terminal is gone.
fn read_keys(sender: &mpsc::Sender<Event>) {
    while !sender.is_closed() {
        match event::poll(KEY_WAIT) {
            Ok(false) => {}
            Ok(true) => match event::read() {
                Ok(event) => drop(sender.blocking_send(event)),
                Err(_) => return,
            },
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_escape_and_control_c_end_it_and_p_holds_the_picture() {
        let key = |code, modifiers| act_of(KeyEvent::new(code, modifiers));
        assert_eq!(key(KeyCode::Char('q'), KeyModifiers::NONE), Some(Act::Quit));
        assert_eq!(key(KeyCode::Esc, KeyModifiers::NONE), Some(Act::Quit));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Act::Quit));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), None);
        assert_eq!(key(KeyCode::Char('p'), KeyModifiers::NONE), Some(Act::Hold));
    }
}
