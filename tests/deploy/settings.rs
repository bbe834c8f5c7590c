//! Settings that are given with the files: the binary takes them, what they mount is there, and a stop has the time that a
//! drain takes.

use std::{path::Path, process::Command, time::Duration};

use crate::{path, text};

/// What comes after the calls in flight at most: the outbox and the background tasks have 3 s each, HTTP requests under way 5 s.
const AFTER_DRAIN: Duration = Duration::from_secs(11);

/// The value after a name in a text, without quotes and comments.
fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().map(str::trim).find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("there is no {name}"))
        .trim()
        .trim_matches('"')
}

fn duration(text: &str, name: &str) -> Duration {
    humantime::parse_duration(value(text, name)).unwrap()
}

/// What `config show` says of a file.
fn shown(file: &Path, environment: &[(&str, &str)]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_im-dispatcher"))
        .args(["config", "show", "--config"])
        .arg(file)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", file.display());
    assert!(!stderr.contains("WARN"), "{}: {stderr}", file.display());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_binary_takes_the_settings_of_the_config_map() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = [
        ("database-url", "postgres://im:hidden@db/im"),
        ("amqp-url", "amqps://im:hidden@mq/%2f"),
        ("im-secret-key", "hidden"),
        ("admin-token", "hidden"),
    ];
    for (name, secret) in secrets {
        std::fs::write(folder.path().join(name), secret).unwrap();
    }
    let map = text("deploy/kubernetes/base/configmap.yaml");
    let (_, toml) = map.split_once("im-dispatcher.toml: |\n").unwrap();
    let toml = toml.replace("/run/secrets/im-dispatcher", folder.path().to_str().unwrap());
    let lines: Vec<&str> = toml
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap_or(line))
        .collect();
    let file = folder.path().join("im-dispatcher.toml");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let shown = shown(&file, &[]);
    assert!(shown.contains("0.0.0.0:8080") && shown.contains("45s"), "{shown}");
    assert!(!shown.contains("hidden@"), "{shown}");
    // Each secret's key is one that the example has, too.
    let example = text("deploy/kubernetes/base/secret.example.yaml");
    for (name, _) in secrets {
        assert!(
            map.contains(&format!("/{name}\"")) && example.contains(&format!("  {name}: ")),
            "{name}"
        );
    }
}

#[test]
fn the_binary_takes_the_settings_of_the_package_as_they_are_and_with_every_example_set() {
    let packaged = text("deploy/debian/im-dispatcher.toml");
    drop(shown(&path("deploy/debian/im-dispatcher.toml"), &[]));
    let folder = tempfile::tempdir().unwrap();
    for name in ["database-url", "amqp-url", "admin-token", "secret-key"] {
        let secret = if name.ends_with("url") {
            "amqp://im:hidden@db/im"
        } else {
            "hidden"
        };
        std::fs::write(
            folder.path().join(name),
            secret.replace(
                "amqp://",
                if name == "database-url" {
                    "postgres://"
                } else {
                    "amqp://"
                },
            ),
        )
        .unwrap();
    }
    let set: Vec<String> = packaged
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") || rest.starts_with('[') => rest.to_owned(),
            _ => line.to_owned(),
        })
        .collect();
    let file = folder.path().join("im-dispatcher.toml");
    std::fs::write(
        &file,
        set.join("\n")
            .replace("/etc/im-dispatcher", folder.path().to_str().unwrap()),
    )
    .unwrap();
    assert!(shown(&file, &[]).contains("1400000000"));
    // The environment file's examples, too.
    let environment =
        text("deploy/debian/im-dispatcher.default").replace("/etc/im-dispatcher", folder.path().to_str().unwrap());
    let examples: Vec<(&str, &str)> = environment
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once('='))
        .filter(|(name, _)| !name.starts_with(' '))
        .collect();
    assert_eq!(examples.len(), 5);
    assert!(shown(&path("deploy/debian/im-dispatcher.toml"), &examples).contains("1400000000"));
}

#[test]
fn a_stop_has_the_time_that_a_drain_takes() {
    let default = duration(&text("src/config/im-dispatcher.toml"), "drain_timeout = ");
    let pod = value(
        &text("deploy/kubernetes/base/deployment.yaml"),
        "terminationGracePeriodSeconds: ",
    )
    .parse()
    .unwrap();
    let stops = [
        (
            duration(&text("deploy/kubernetes/base/configmap.yaml"), "drain_timeout = "),
            Duration::from_secs(pod),
        ),
        (
            duration(&text("deploy/debian/im-dispatcher.toml"), "drain_timeout = "),
            duration(&text("deploy/systemd/im-dispatcher.service"), "TimeoutStopSec="),
        ),
        (default, duration(&text("docker-compose.yml"), "stop_grace_period: ")),
    ];
    for (drain, stop) in stops {
        assert!(stop >= drain + AFTER_DRAIN, "{stop:?} for a drain of {drain:?}");
    }
}

#[test]
fn the_compose_file_mounts_what_is_there_and_publishes_on_loopback_only() {
    let compose = text("docker-compose.yml");
    let mut mounts = Vec::new();
    let mut ports = 0;
    for line in compose.lines().map(str::trim) {
        if let Some(mount) = line.strip_prefix("- ./") {
            let (source, target) = mount.split_once(':').unwrap();
            assert!(path(source).exists(), "{line}");
            assert!(target.ends_with(":ro"), "{line}");
            mounts.push(target.trim_end_matches(":ro"));
        }
        if line.starts_with("- \"") && line.matches(':').count() >= 2 && line.contains("}:") {
            assert!(line.starts_with("- \"127.0.0.1:"), "{line}");
            ports += 1;
        }
    }
    assert_eq!((mounts.len(), ports), (5, 5));
    // Grafana looks for dashboards where ours is mounted.
    let provider = text("deploy/grafana/provisioning/dashboards/im-dispatcher.yml");
    let folder = value(&provider, "path: ");
    assert!(
        mounts
            .iter()
            .any(|target| *target == format!("{folder}/im-dispatcher.json")),
        "{mounts:?}"
    );
    // Prometheus finds the rules beside its configuration, and the worker under the name that it has there.
    let prometheus = text("deploy/prometheus/prometheus.yml");
    assert!(prometheus.contains("  - alerts.yml\n") && mounts.contains(&"/etc/prometheus/alerts.yml"));
    assert!(prometheus.contains("[\"im-dispatcher:8080\"]") && compose.contains("aliases: [im-dispatcher]"));
}
