//! Rules, dashboard and scaler use no metric and no label that docs/monitoring.md doesn't have; that its table is what a worker
//! prints is tested with a worker (`tests/it/operators/metrics.rs`).

use std::collections::{BTreeMap, BTreeSet};

use crate::text;

const PREFIX: &str = "im_dispatcher";

/// Files that name metrics.
const USERS: [&str; 4] = [
    "deploy/prometheus/alerts.yml",
    "deploy/prometheus/alerts.test.yml",
    "deploy/grafana/im-dispatcher.json",
    "deploy/kubernetes/keda/scaledobject.yaml",
];

/// A metric's name as it was found, and the labels in its braces.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Used {
    name: String,
    labels: BTreeSet<String>,
}

/// Every word of a text that begins as our metrics do.
fn used(text: &str) -> BTreeSet<Used> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.match_indices(PREFIX)
        .filter(|(at, _)| !text[..*at].ends_with(|c: char| word(c) || c == '-'))
        .filter_map(|(at, _)| {
            let name: String = text[at..].chars().take_while(|c| word(*c)).collect();
            let rest = &text[at + name.len()..];
            let labels = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            let labels = labels.map_or_else(BTreeSet::new, |(inner, _)| label_names(inner));
            // `im_dispatcher:` and the like in prose are no metrics.
            let name = name.trim_end_matches(':').to_owned();
            (name != PREFIX).then_some(Used { name, labels })
        })
        .collect()
}

/// The names before `=`, `!` and `~` of a selector; in JSON its quotes are escaped.
fn label_names(selector: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut quoted = false;
    let mut name = String::new();
    for c in selector.chars() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => {}
            'a'..='z' | '_' => name.push(c),
            '=' | '!' if !name.is_empty() => drop(names.insert(std::mem::take(&mut name))),
            _ => name.clear(),
        }
    }
    names
}

/// The table of docs/monitoring.md: the metrics, the histograms by their series too, with their labels.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = text("docs/monitoring.md");
    let mut metrics = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `im_dispatcher_")) {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (metric, kind) = (cells.next().unwrap().trim_matches('`'), cells.next().unwrap());
        let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
        let labels: BTreeSet<String> = labels
            .trim_end_matches('}')
            .split(',')
            .filter(|label| !label.is_empty())
            .map(str::to_owned)
            .collect();
        if kind == "histogram" {
            for suffix in ["_bucket", "_sum", "_count"] {
                metrics.insert(format!("{name}{suffix}"), labels.clone());
            }
        }
        metrics.insert(name.to_owned(), labels);
    }
    assert!(metrics.len() > 30, "the table of docs/monitoring.md has moved");
    metrics
}

/// Names that the rules record.
fn recorded() -> BTreeSet<String> {
    let rules = text("deploy/prometheus/alerts.yml");
    rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: ").map(str::to_owned))
        .collect()
}

#[test]
fn rules_dashboard_and_scaler_use_only_metrics_and_labels_that_exist() {
    let (documented, recorded) = (documented(), recorded());
    // Prometheus adds these.
    let added: BTreeSet<String> = ["job", "instance", "le"].map(str::to_owned).into();
    let mut count = 0;
    for file in USERS {
        for Used { name, labels } in used(&text(file)) {
            count += 1;
            if name.contains(':') {
                assert!(recorded.contains(&name), "{file} uses {name}, which no rule records");
                continue;
            }
            let Some(known) = documented.get(&name) else {
                panic!("{file} uses {name}, which isn't in docs/monitoring.md");
            };
            let unknown: Vec<_> = labels
                .iter()
                .filter(|label| !known.contains(*label) && !added.contains(*label))
                .collect();
            assert!(unknown.is_empty(), "{file}: {name} has no label {unknown:?}");
        }
    }
    assert!(count > 60, "only {count} uses were found: has the search broken?");
}

#[test]
fn each_metric_of_a_worker_is_on_the_dashboard_or_alerts() {
    let shown: BTreeSet<String> = USERS
        .iter()
        .flat_map(|file| used(&text(file)))
        .map(|used| used.name)
        .collect();
    let histograms = |name: &str| ["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}"));
    let hidden: Vec<String> = documented()
        .into_keys()
        .filter(|name| {
            !["_bucket", "_sum", "_count"]
                .iter()
                .any(|suffix| name.ends_with(suffix))
        })
        .filter(|name| !shown.contains(name) && !histograms(name).iter().any(|series| shown.contains(series)))
        .collect();
    // The same by app and command is there.
    assert_eq!(hidden, ["im_dispatcher_budget_waiting"]);
}

#[test]
fn selectors_are_read_with_and_without_escapes() {
    let names = |labels: &[&str]| -> BTreeSet<String> { labels.iter().map(|label| (*label).to_owned()).collect() };
    assert_eq!(
        label_names(r#"lane="high", queue=~".+[.]jobs[.]dead""#),
        names(&["lane", "queue"])
    );
    assert_eq!(label_names(r#"job=~\"$job\", class!=\"ok\""#), names(&["job", "class"]));
}

#[test]
fn every_query_of_the_dashboard_keeps_to_the_chosen_jobs() {
    let dashboard: serde_json::Value = serde_json::from_str(&text("deploy/grafana/im-dispatcher.json")).unwrap();
    let mut ids = BTreeSet::new();
    let mut queries = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "two panels share an id: {panel}"
        );
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            queries += 1;
            for Used { name, labels } in used(query) {
                assert!(labels.contains("job"), "{}: {name} in {query}", panel["title"]);
            }
        }
    }
    assert!(queries > 40);
}
