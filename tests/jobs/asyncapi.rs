//! `schemas/asyncapi.yaml` says what the code does: names, keys, arguments, headers.

use std::{collections::BTreeSet, fs};

use im_dispatcher::{
    broker::{EVENT_CONTENT_TYPE, Topology, header},
    domain::{Lane, event::Outcome, job::JobType},
};
use lapin::types::{AMQPValue, FieldTable};
use saphyr::{LoadableYamlNode, Yaml};

#[expect(clippy::unwrap_used, reason = "a test helper")]
fn with_document(look: impl FnOnce(&Yaml<'_>)) {
    let text = fs::read_to_string(super::path("schemas/asyncapi.yaml")).unwrap();
    look(&Yaml::load_from_str(&text).unwrap()[0]);
}

#[expect(clippy::unwrap_used, reason = "a test helper")]
fn texts(list: &Yaml<'_>) -> Vec<String> {
    let list = list.as_sequence().unwrap();
    list.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Arguments as the document spells them.
#[expect(clippy::unwrap_used, reason = "a test helper")]
fn same_arguments(document: &Yaml<'_>, table: &FieldTable) {
    let found: BTreeSet<_> = document
        .as_mapping()
        .unwrap()
        .iter()
        .map(|(name, value)| {
            let value = value
                .as_str()
                .map_or_else(|| value.as_integer().unwrap().to_string(), str::to_owned);
            (name.as_str().unwrap().to_owned(), value)
        })
        .collect();
    let expected = table.inner().iter().map(|(name, value)| {
        let value = match value {
            AMQPValue::LongString(text) => text.to_string(),
            AMQPValue::LongInt(number) => number.to_string(),
            other => panic!("{other:?}"),
        };
        (name.to_string(), value)
    });
    assert_eq!(found, expected.collect());
}

#[test]
fn its_queues_are_those_that_a_worker_declares() {
    let topology = Topology::new("im", &[]).unwrap();
    with_document(|document| {
        assert_eq!(document["info"]["version"].as_str(), Some(env!("CARGO_PKG_VERSION")));
        let mut queues = BTreeSet::new();
        for channel in document["channels"].as_mapping().unwrap().values() {
            let Some(bindings) = channel.as_mapping_get("bindings") else {
                continue;
            };
            let amqp = &bindings["amqp"];
            if amqp["is"].as_str() == Some("queue") {
                let name = channel["address"].as_str().unwrap();
                assert_eq!(amqp["queue"]["name"].as_str(), Some(name));
                assert_eq!(amqp["queue"]["durable"].as_bool(), Some(true));
                queues.insert(name.to_owned());
                let arguments = if name == topology.dead_queue() {
                    topology.dead_queue_arguments()
                } else {
                    topology.job_queue_arguments()
                };
                same_arguments(&channel["x-queue-arguments"], &arguments);
            }
        }
        let mut expected: BTreeSet<_> = topology
            .job_queues()
            .iter()
            .map(|queue| queue.name.to_string())
            .collect();
        expected.insert(topology.dead_queue());
        assert_eq!(queues, expected);
    });
}

#[test]
fn its_exchanges_keys_headers_and_media_types_are_those_of_the_code() {
    let topology = Topology::new("im", &[]).unwrap();
    with_document(|document| {
        let (jobs, events) = (&document["channels"]["jobs"], &document["channels"]["events"]);
        let exchange = |channel: &Yaml<'_>| {
            channel["bindings"]["amqp"]["exchange"]["name"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(exchange(jobs), topology.jobs_exchange());
        assert_eq!(exchange(events), topology.events_exchange());
        assert_eq!(
            texts(&jobs["parameters"]["lane"]["enum"]),
            Lane::ALL.map(|lane| lane.to_string())
        );
        assert_eq!(
            texts(&events["parameters"]["type"]["enum"]),
            JobType::ALL.map(JobType::as_str)
        );
        assert_eq!(
            texts(&events["parameters"]["outcome"]["enum"]),
            Outcome::ALL.map(Outcome::as_str)
        );
        let messages = &document["components"]["messages"];
        assert_eq!(messages["event"]["contentType"].as_str(), Some(EVENT_CONTENT_TYPE));
        let headers = [
            header::ERROR_CODE,
            header::ERROR,
            header::QUEUE,
            header::ATTEMPTS,
            header::LETTER,
            header::GENERATION,
        ];
        assert_eq!(texts(&messages["deadLetter"]["headers"]["required"]), headers);
        for name in ["job", "event"] {
            let reference = messages[name]["payload"]["$ref"].as_str().unwrap();
            assert!(super::path("schemas").join(reference).is_file(), "{reference}");
        }
    });
}
