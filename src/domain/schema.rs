//! The JSON Schemas of jobs and events, generated from the types that read and write them.
//!
//! A job's schema accepts what [`Job::decode`](super::job::Job::decode) accepts, as far as JSON Schema can say it. It
//! can't say: limits in bytes (an account's 32, a `MsgBody`'s 12,288), keys given twice, that `expires_at` is later than
//! `send_at`, that a window's `end` differs from its `start`, which time zones there are, that a cap's period is at most
//! 31 days and its prefix one of the job's group, that `Ext` is itself JSON, and that an `id` left out comes as the AMQP
//! property `message_id`.

use schemars::{
    JsonSchema, Schema, SchemaGenerator,
    generate::SchemaSettings,
    transform::{RecursiveTransform, Transform},
};
use serde_json::{Map, Value, json};

use super::{
    event,
    job::JobType,
    message::Message,
    wire::{BatchSend, Envelope, History, Import, MarkRead, NOT_IN_BATCH, NOT_IN_IMPORT, POLICY, Revoke, Send, Unread},
};

/// The schema of a job: one variant per type.
pub fn job_schema() -> Value {
    let mut generator = generator();
    let variants = JobType::ALL.map(|job_type| {
        let (name, fields) = match job_type {
            JobType::Send => ("SendJob", Send::json_schema(&mut generator)),
            JobType::BatchSend => ("BatchSendJob", BatchSend::json_schema(&mut generator)),
            JobType::Revoke => ("RevokeJob", Revoke::json_schema(&mut generator)),
            JobType::Import => ("ImportJob", Import::json_schema(&mut generator)),
            JobType::MarkRead => ("MarkReadJob", MarkRead::json_schema(&mut generator)),
            JobType::Unread => ("UnreadJob", Unread::json_schema(&mut generator)),
            JobType::History => ("HistoryJob", History::json_schema(&mut generator)),
        };
        let envelope = Envelope::json_schema(&mut generator);
        (name, variant(job_type, &envelope, &fields))
    });
    let batch_message = without(&Message::json_schema(&mut generator), &NOT_IN_BATCH);
    let import_message = without(&Message::json_schema(&mut generator), &NOT_IN_IMPORT);

    let references: Vec<Value> = variants
        .iter()
        .map(|(name, _)| json!({"$ref": format!("#/$defs/{name}")}))
        .collect();
    let mut definitions: Map<String, Value> = variants.into_iter().map(|(name, job)| (name.to_owned(), job)).collect();
    definitions.insert("BatchMessage".to_owned(), batch_message);
    definitions.insert("ImportMessage".to_owned(), import_message);
    definitions.extend(generator.take_definitions(true));

    let mut schema = Map::new();
    schema.insert(
        "$schema".to_owned(),
        json!("https://json-schema.org/draft/2020-12/schema"),
    );
    schema.insert("title".to_owned(), json!("Job"));
    schema.insert(
        "description".to_owned(),
        json!("A job for im-dispatcher, as a producer publishes it."),
    );
    schema.insert("oneOf".to_owned(), Value::Array(references));
    schema.insert("$defs".to_owned(), Value::Object(definitions));
    let mut schema = Schema::from(schema);
    RecursiveTransform(not_null).transform(&mut schema);
    RecursiveTransform(full_range).transform(&mut schema);
    RecursiveTransform(one_line).transform(&mut schema);
    schema.to_value()
}

/// The schema of an outcome event in CloudEvents' structured mode. Fields may be added to events in later versions.
pub fn event_schema() -> Value {
    let mut events = generator().into_root_schema_for::<event::Envelope<'_>>();
    RecursiveTransform(one_line).transform(&mut events);
    events.to_value()
}

fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().into_generator()
}

/// A job of one type: the envelope's fields and its own, and no others.
fn variant(job_type: JobType, envelope: &Schema, fields: &Schema) -> Value {
    let mut envelope = object(envelope);
    let mut fields = object(fields);
    let mut properties = Map::new();
    let mut required = Vec::new();
    for part in [&mut envelope, &mut fields] {
        if let Some(Value::Object(part)) = part.remove("properties") {
            properties.extend(part);
        }
        if let Some(Value::Array(part)) = part.remove("required") {
            required.extend(
                part.into_iter()
                    .filter(|name| !required.contains(name))
                    .collect::<Vec<_>>(),
            );
        }
    }
    properties.insert("type".to_owned(), json!({"const": job_type.as_str()}));
    if job_type != JobType::Send {
        properties.insert(
            "coalesce".to_owned(),
            json!({"const": false, "description": "Only a `send` can be coalesced."}),
        );
    }
    if !job_type.obeys_policy() {
        properties.retain(|name, _| !POLICY.contains(&name.as_str()));
    }
    let message = match job_type {
        JobType::BatchSend => Some("#/$defs/BatchMessage"),
        JobType::Import => Some("#/$defs/ImportMessage"),
        _ => None,
    };
    if let Some(message) = message {
        properties.insert("message".to_owned(), json!({"$ref": message}));
    }
    json!({
        "description": fields.remove("description"),
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn object(schema: &Schema) -> Map<String, Value> {
    schema.as_object().cloned().unwrap_or_default()
}

/// A message without the options that a call can't carry.
fn without(message: &Schema, options: &[&str]) -> Value {
    let mut message = object(message);
    if let Some(Value::Object(properties)) = message.get_mut("properties") {
        properties.retain(|name, _| !options.contains(&name.as_str()));
    }
    message.into()
}

/// An optional field is left out, never null.
fn not_null(schema: &mut Schema) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    if schema.get("default") == Some(&Value::Null) {
        schema.remove("default");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("enum") {
        choices.retain(|choice| !choice.is_null());
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| *choice != json!({"type": "null"}));
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            schema.remove("anyOf");
            schema.extend(only);
        }
    }
}

/// A format's range, said so that every validator checks it: `format` alone is a remark.
fn full_range(schema: &mut Schema) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    if schema.get("format") == Some(&json!("uint32")) && !schema.contains_key("maximum") {
        schema.insert("maximum".to_owned(), json!(u32::MAX));
    }
}

/// A description's lines are those of a source file.
fn one_line(schema: &mut Schema) {
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = description.replace('\n', " ");
    }
}
