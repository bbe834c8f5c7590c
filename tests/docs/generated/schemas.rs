//! `docs/reference/jobs.md` and `events.md`, from the schemas, which come from the types that read and write them.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use im_dispatcher::domain::{
    event::Outcome,
    job::JobType,
    schema::{event_schema, job_schema},
};
use serde_json::{Map, Value};

use super::{capital, cell, check, page, sentence};
use crate::markdown::path;

const JOBS: &str = "\
A job is one JSON object, UTF-8, published to the exchange `im.jobs`; [Publishing jobs](../publishing.md) says how. A field that isn't listed is
refused by its name, and so is `null`: what isn't needed is left out. The schema for tools is
[job.schema.json](../../schemas/job.schema.json); [examples/jobs](../../examples/jobs/README.md) has an example of everything.

What a schema can't say: an account has at most 32 *bytes*, a MsgBody at most 12,288 bytes as serialised; no key is given twice; `expires_at` is
later than `send_at`; the `end` of a window differs from its `start`, and its `timezone` is one of the IANA database; the `period` of a
cap is at most 31 days, and its `group_prefix` begins the job's `group`; `Ext` of a push is itself JSON; an `id` that is left
out comes as the AMQP property `message_id`.";

const EVENTS: &str = "\
Each outcome is an event on the exchange `im.events` (topic) under `<job type>.<outcome>`, and in the queue that the job names as `reply_to`.
CloudEvents 1.0 in structured mode, at least once: `id` is stable over repeats. Of a batch there is one event for each call (at most 500
recipients): `sent` if anybody was reached. Fields may be added in later versions. The schema for tools is
[event.schema.json](../../schemas/event.schema.json), exchanges and queues are in [asyncapi.yaml](../../schemas/asyncapi.yaml).";

#[test]
fn the_job_reference_is_fresh() {
    let schema = job_schema();
    let definitions = schema["$defs"].as_object().unwrap();
    let jobs: Vec<(JobType, &Value)> = JobType::ALL
        .into_iter()
        .zip(schema["oneOf"].as_array().unwrap())
        .map(|(job_type, job)| (job_type, &definitions[name_of(job)]))
        .collect();
    let first = jobs[0].1["properties"].as_object().unwrap();
    let shared: BTreeSet<&String> = first
        .iter()
        .filter(|(name, field)| jobs.iter().all(|(_, job)| job["properties"].get(*name) == Some(field)))
        .map(|(name, _)| name)
        .collect();
    assert!(shared.len() >= 5, "the jobs share an envelope");

    let mut body = String::from("| type | is |\n|---|---|\n");
    for (job_type, job) in &jobs {
        let word = job_type.as_str();
        writeln!(
            body,
            "| [`{word}`](#{word}) | {} |",
            cell(job["description"].as_str().unwrap())
        )
        .unwrap();
    }
    body.push_str("\n## Fields of every job\n\n");
    let is_shared = |name: &String| shared.contains(name);
    fields(&mut body, jobs[0].1, is_shared);
    for (job_type, job) in &jobs {
        let word = job_type.as_str();
        assert_eq!(job["properties"]["type"]["const"], word);
        write!(body, "\n## {word}\n\n{}\n\n", job["description"].as_str().unwrap()).unwrap();
        fields(&mut body, job, |name| !is_shared(name));
        write!(body, "\n```json\n{}\n```\n", shortest_example(word)).unwrap();
    }
    let skip: BTreeSet<&str> = schema["oneOf"].as_array().unwrap().iter().map(name_of).collect();
    define(&mut body, definitions, &skip);
    check(
        "jobs.md",
        &page("Jobs, field by field", "the schema of jobs", JOBS, &body),
    );
}

#[test]
fn the_event_reference_is_fresh() {
    let schema = event_schema();
    let mut body = String::from("| routing key | `type` | meaning |\n|---|---|---|\n");
    for outcome in Outcome::ALL {
        let word = outcome.as_str();
        writeln!(
            body,
            "| `….{word}` | `{}` | {} |",
            outcome.event_type(),
            cell(meaning(outcome))
        )
        .unwrap();
    }
    body.push_str("\n## Event\n\n");
    fields(&mut body, &schema, |_| true);
    define(&mut body, schema["$defs"].as_object().unwrap(), &BTreeSet::new());
    check(
        "events.md",
        &page("Events, field by field", "the schema of events", EVENTS, &body),
    );
}

const fn meaning(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Sent => "The service accepted the message for at least one recipient of the call.",
        Outcome::Failed => "Nobody was reached, and nobody will be; `error` or `failed` says why.",
        Outcome::Cancelled => "Revoked before it was sent.",
        Outcome::Expired => "Its `expires_at` passed before it was sent.",
        Outcome::Suppressed => "Held back by a cap.",
        Outcome::Unknown => "Nobody can tell whether it was sent.",
        Outcome::Revoked => "Revoked at the recipient.",
        Outcome::RevokeFailed => "The service refused to revoke it; it stays sent.",
        Outcome::Imported => "Imported.",
        Outcome::Read => "A conversation was set to read.",
        Outcome::Reply => "The result of an `unread` or `history` job, in `reply`.",
    }
}

fn name_of(reference: &Value) -> &str {
    reference["$ref"].as_str().unwrap().rsplit('/').next().unwrap()
}

/// The smallest example of a type.
fn shortest_example(word: &str) -> String {
    let files = fs::read_dir(path("examples/jobs"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let texts = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "json"))
        .map(|file| fs::read_to_string(file).unwrap());
    let of_type = texts.filter(|text| serde_json::from_str::<Value>(text).unwrap()["type"] == word);
    of_type
        .min_by_key(|text| (text.len(), text.clone()))
        .unwrap()
        .trim()
        .to_owned()
}

/// The table of an object's fields.
fn fields(body: &mut String, object: &Value, wanted: impl Fn(&String) -> bool) {
    let required = object["required"].as_array();
    body.push_str("| field | type | meaning |\n|---|---|---|\n");
    let Some(properties) = object["properties"].as_object() else {
        return;
    };
    for (name, field) in properties.iter().filter(|(name, _)| wanted(name)) {
        let needed = required.is_some_and(|required| required.iter().any(|other| other == name));
        let star = if needed { " (needed)" } else { "" };
        let mut text = sentence(field["description"].as_str().unwrap_or_default());
        if let Some(default) = field.get("default") {
            write!(text, " Default: `{}`.", plain(default)).unwrap();
        }
        writeln!(body, "| `{name}`{star} | {} | {} |", shape(field), cell(&text)).unwrap();
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What a value is, in few words.
fn shape(field: &Value) -> String {
    if field.get("$ref").is_some() {
        let name = name_of(field);
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(word) = field.get("const") {
        return format!("`{}`", plain(word));
    }
    if let Some(words) = field["enum"].as_array() {
        return words
            .iter()
            .map(|word| format!("`{}`", plain(word)))
            .collect::<Vec<_>>()
            .join(", ");
    }
    for choice in ["oneOf", "anyOf"] {
        if let Some(choices) = field[choice].as_array() {
            let shapes: Vec<_> = choices
                .iter()
                .filter(|choice| choice["type"] != "null")
                .map(shape)
                .collect();
            return shapes.join(" or ");
        }
    }
    let kind = match &field["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        kind => kind.as_str(),
    };
    match kind {
        Some("array") => format!("list of {}", shape(&field["items"])),
        Some("string") if field["format"] == "date-time" => "time, RFC 3339".to_owned(),
        Some("integer") => match (field["minimum"].as_i64(), field["maximum"].as_u64()) {
            (Some(least), Some(most)) => format!("integer, {least} to {most}"),
            (Some(least), None) => format!("integer, at least {least}"),
            _ => "integer".to_owned(),
        },
        Some(kind) => {
            let bounds = (field["minLength"].as_u64(), field["maxLength"].as_u64());
            match bounds {
                (Some(least), Some(most)) => format!("{kind}, {least} to {most} characters"),
                (None, Some(most)) => format!("{kind}, up to {most} characters"),
                _ => kind.to_owned(),
            }
        }
        None => "any".to_owned(),
    }
}

/// The definitions that others refer to, each under a heading of its own.
fn define(body: &mut String, definitions: &Map<String, Value>, skip: &BTreeSet<&str>) {
    body.push_str("\n# What the fields are made of\n");
    for (name, definition) in definitions.iter().filter(|(name, _)| !skip.contains(name.as_str())) {
        let about = sentence(definition["description"].as_str().unwrap_or_default());
        write!(body, "\n## {name}\n\n{about}\n").unwrap();
        if definition.get("properties").is_some() {
            body.push('\n');
            fields(body, definition, |_| true);
        } else if let Some(choices) = definition["oneOf"].as_array() {
            variants(body, choices);
        } else {
            write!(body, "\n{}.\n", capital(&shape(definition)).trim_end_matches('.')).unwrap();
        }
        if definition["properties"].is_object()
            && let Some(choices) = definition["oneOf"].as_array()
        {
            let names: Vec<_> = choices
                .iter()
                .filter_map(|choice| choice["required"][0].as_str())
                .map(|name| format!("`{name}`"))
                .collect();
            write!(body, "\nExactly one of {} is given.\n", names.join(", ")).unwrap();
        }
    }
}

/// A choice: of words, or of objects.
fn variants(body: &mut String, choices: &[Value]) {
    body.push('\n');
    for choice in choices {
        let about = sentence(choice["description"].as_str().unwrap_or_default());
        match (choice.get("const"), choice["properties"].as_object()) {
            (Some(word), _) => writeln!(body, "- `{}`: {about}", plain(word)).unwrap(),
            (None, Some(properties)) => {
                let inner: Vec<_> = properties
                    .iter()
                    .map(|(name, field)| format!("`{name}`: {}", shape(field)))
                    .collect();
                writeln!(body, "- {{ {} }} {about}", inner.join(", ")).unwrap();
            }
            (None, None) => writeln!(body, "- {} {about}", shape(choice)).unwrap(),
        }
    }
}
