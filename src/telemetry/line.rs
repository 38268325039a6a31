//! Log lines that name the request they are about.
//!
//! A span of `tracing` for every request would do the same, at the price of making one for every
//! request, of which nearly none logs anything but its own line.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::cause::{self, RequestId};

/// The field, as the access log calls it.
const FIELD: &str = "request_id";

/// A format whose lines end with the id of the current request, unless they have one.
#[derive(Debug)]
pub(super) struct WithRequest<F>(F);

impl<F> WithRequest<F> {
    pub(super) const fn new(format: F) -> Self {
        Self(format)
    }
}

impl<S, N, F> FormatEvent<S, N> for WithRequest<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let id = match cause::current_request() {
            Some(id) if event.metadata().fields().field(FIELD).is_none() => id,
            _ => return self.0.format_event(context, writer, event),
        };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        append(&mut line, id);
        writer.write_str(&line)
    }
}

/// Adds the field behind the last one: inside of the object where the line is one.
fn append(line: &mut String, id: RequestId) {
    let text = line.trim_end().len();
    line.truncate(text);
    let is_object = line.starts_with('{') && line.ends_with('}');
    let field = if is_object {
        line.pop();
        format!(",\"{FIELD}\":\"{id}\"}}\n")
    } else {
        format!(" {FIELD}={id}\n")
    };
    line.push_str(&field);
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex, PoisonError};

    use tracing_subscriber::fmt::MakeWriter;

    use super::super::Cause;
    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn text(&self) -> String {
            let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            String::from_utf8(bytes.clone()).unwrap()
        }
    }

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    async fn talk() {
        let cause = Cause { request: Some(RequestId::new(255)), span: None };
        let talk = async {
            tracing::error!(what = "{}", "within\n");
            tracing::info!(request_id = "own", "access");
        };
        cause.within(talk).await;
        tracing::warn!("outside");
    }

    #[tokio::test]
    async fn text_lines_name_the_request() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false);
        let subscriber = subscriber.map_event_format(WithRequest::new).finish();
        let guard = tracing::subscriber::set_default(subscriber);
        talk().await;
        drop(guard);
        let text = lines.text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("within") && text.contains(" request_id=00000000000000ff\n"));
        assert_eq!(text.matches("request_id").count(), 2, "{text}");
        assert!(text.ends_with("outside\n"), "{text}");
    }

    #[tokio::test]
    async fn json_lines_stay_json() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt().json().flatten_event(true);
        let subscriber = subscriber.with_writer(lines.clone());
        let subscriber = subscriber.map_event_format(WithRequest::new).finish();
        let guard = tracing::subscriber::set_default(subscriber);
        talk().await;
        drop(guard);
        let text = lines.text();
        let ids: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|line| line["request_id"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(ids, [Some("00000000000000ff".to_owned()), Some("own".to_owned()), None]);
    }
}
