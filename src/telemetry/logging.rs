//! Log lines: text for people, JSON for machines, always to stderr, and never more of a dependency than is safe.
//!
//! At their finer levels several dependencies print what must never be in a log: lapin its frames and with them message
//! bodies, sqlx the arguments of statements, hyper and reqwest URLs (a UserSig is in each) and buffers. `RUST_LOG` can't
//! raise them: [`CAPS`] is laid under it.

use std::io::IsTerminal;

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::Targets,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::{LogFormat, LogSettings};

/// The most that a target may say, whatever `RUST_LOG` asks for. The longest matching prefix counts; a target that is
/// not named is held at [`DEPENDENCY_CAP`], so a dependency that joins tomorrow is capped too.
const CAPS: &[(&str, LevelFilter)] = &[
    // Ours: nothing secret is ever handed to a log macro.
    ("im_dispatcher", LevelFilter::TRACE),
    // Warns with the whole returned message in it, body included; our publisher reports the return itself.
    ("lapin::returned_messages", LevelFilter::OFF),
    // Logs an error at each clean close; our supervisor reports connections that are lost.
    ("lapin::channels", LevelFilter::OFF),
    ("lapin::io_loop", LevelFilter::OFF),
    // Prints unknown parameters of the database URL with their values, which may be a misspelled `password`.
    ("sqlx_postgres::options", LevelFilter::OFF),
    // The statement's text without its arguments, where it was slow.
    ("sqlx::query", LevelFilter::WARN),
    // Hosts and ports of new and pooled connections, no paths: worth having when a proxy is in the way.
    ("hyper_util::client::legacy::connect", LevelFilter::DEBUG),
    ("hyper_util::client::legacy::pool", LevelFilter::DEBUG),
];

/// For every target that [`CAPS`] doesn't name. At info and above the dependencies name hosts, channels and errors.
const DEPENDENCY_CAP: LevelFilter = LevelFilter::INFO;

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `RUST_LOG` or `log.filter`; the configuration checks it before.
    #[error("log.filter can't be read")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// Something else in this process has set a global subscriber before.
    #[error("logging was started twice")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Starts logging to stderr for the rest of the process.
pub fn init_logging(settings: &LogSettings) -> Result<(), LogError> {
    let terminal = std::io::stderr().is_terminal();
    let format = settings
        .format
        .unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    subscriber(&settings.filter, format, terminal, std::io::stderr)?
        .try_init()
        .map_err(LogError::Twice)
}

fn subscriber<W>(
    filter: &str,
    format: LogFormat,
    ansi: bool,
    writer: W,
) -> Result<impl Subscriber + Send + Sync + for<'a> tracing_subscriber::registry::LookupSpan<'a>, LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let wanted = EnvFilter::builder().parse(filter).map_err(LogError::Filter)?;
    let caps = Targets::new()
        .with_targets(CAPS.iter().copied())
        .with_default(DEPENDENCY_CAP);
    let lines = match format {
        LogFormat::Text => fmt::layer().with_ansi(ansi).with_writer(writer).boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(writer)
            .boxed(),
    };
    Ok(Registry::default().with(caps).with(lines.with_filter(wanted)))
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, format: LogFormat, emit: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = subscriber(filter, format, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, emit);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn no_filter_raises_a_dependency_above_its_cap() {
        for filter in [
            "trace",
            "lapin=trace,sqlx=trace,hyper=trace,reqwest=trace,h2=trace,info",
            "lapin[{x}]=trace",
        ] {
            let text = logged(filter, LogFormat::Text, || {
                tracing::trace!(target: "lapin::frames", "MARKED frame");
                tracing::debug!(target: "lapin::channel", "MARKED method");
                tracing::warn!(target: "lapin::returned_messages", "MARKED returned");
                tracing::debug!(target: "sqlx::query", "MARKED arguments");
                tracing::info!(target: "sqlx::query", "MARKED statement");
                tracing::warn!(target: "sqlx_postgres::options::parse", "MARKED parameter");
                tracing::trace!(target: "hyper::proto::h1::io", "MARKED buffer");
                tracing::debug!(target: "reqwest::connect", "MARKED url");
                tracing::debug!(target: "h2::codec", "MARKED frame");
                tracing::debug!(target: "rustls::client", "MARKED handshake");
                tracing::debug!(target: "some_crate_of_tomorrow", "MARKED");
            });
            assert!(!text.contains("MARKED"), "{filter}: {text}");
        }
    }

    #[test]
    fn spans_of_a_capped_dependency_bring_no_fields_either() {
        let text = logged("trace", LogFormat::Json, || {
            let span = tracing::debug_span!(target: "sqlx::query", "statement", arguments = "MARKED");
            span.in_scope(|| {
                tracing::info!(target: "im_dispatcher::store", "claimed");
            });
        });
        assert!(text.contains("claimed") && !text.contains("MARKED"), "{text}");
    }

    #[test]
    fn our_own_levels_follow_the_filter_and_dependencies_still_warn() {
        let emit = || {
            tracing::debug!(target: "im_dispatcher::worker", "our detail");
            tracing::info!(target: "im_dispatcher::worker", "our news");
            tracing::warn!(target: "lapin::channel", "their warning");
        };
        let text = logged("info", LogFormat::Text, emit);
        assert!(
            text.contains("our news") && text.contains("their warning") && !text.contains("our detail"),
            "{text}"
        );
        assert!(logged("trace", LogFormat::Text, emit).contains("our detail"));
        assert!(!logged("error", LogFormat::Text, emit).contains("our news"));
    }

    #[test]
    fn json_is_one_object_a_line_with_fields_at_the_top() {
        let text = logged("info", LogFormat::Json, || {
            tracing::info!(job.id = "j-1", delay_ms = 5, "parked");
        });
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["job.id"], "j-1");
        assert_eq!(line["message"], "parked");
    }
}
