//! Each alert says how urgent it is, is explained, and is tested.

use std::collections::BTreeSet;

use crate::text;

fn marked(text: &str, mark: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix(mark))
        .map(|name| name.split([',', ' ']).next().unwrap_or(name).to_owned())
        .collect()
}

#[test]
fn each_alert_is_explained_and_tested() {
    let rules = marked(&text("deploy/prometheus/alerts.yml"), "- alert: ");
    assert!(rules.len() > 15);
    let explained: BTreeSet<String> = marked(&text("docs/monitoring.md"), "### ");
    assert_eq!(
        rules, explained,
        "rules on the left, headings of docs/monitoring.md on the right"
    );
    let tests = text("deploy/prometheus/alerts.test.yml");
    for alert in rules {
        // With a firing, not only with `exp_alerts: []`.
        assert!(
            tests.contains(&format!("        alertname: {alert}\n")),
            "{alert} fires in no test"
        );
    }
}

#[test]
fn each_alert_says_how_urgent_it_is() {
    let rules = text("deploy/prometheus/alerts.yml");
    for alert in rules.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        assert!(
            ["page", "ticket", "info"]
                .iter()
                .any(|severity| alert.contains(&format!("severity: {severity}}}"))),
            "{name} has no severity"
        );
        for part in ["summary: ", "description: "] {
            assert!(alert.contains(part), "{name} has no {part}");
        }
    }
}
