//! `docs/reference/settings.md`, from the commented defaults that the binary compiles in.

use std::{fmt::Write as _, process::Command};

use serde_json::Value;

use super::{cell, check, page};
use crate::markdown::text;

const SOURCE: &str = "src/config/im-dispatcher.toml";

const INTRODUCTION: &str = "\
A flag stands above the environment, the environment above the file (`--config`, `IM_DISPATCHER_CONFIG`, `./im-dispatcher.toml`), the file
above the defaults. `im-dispatcher config show` prints what is in force and where each value came from; `im-dispatcher check` tries it. A wrong
or unknown setting stops the start with one line that names it.

Every setting `section.field` is also the variable `IM_DISPATCHER__SECTION__FIELD`, and `--set section.field=value`; the table has the short
names that some have, too. A secret (`database_url`, `amqp_url`, tokens, `secret`) can be read from a file: the same name with `_file` appended.";

/// A setting as the file shows it, commented out or not.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    name: String,
    default: Option<String>,
    short: Vec<String>,
}

/// The table's name in a line such as `[lanes.high]` or `# [apps.default]`.
fn heading(line: &str) -> Option<&str> {
    line.trim_start_matches("# ")
        .strip_prefix('[')?
        .strip_suffix(']')
        .filter(|name| name.split('.').all(is_name))
}

fn settings(file: &str) -> Vec<Setting> {
    let (mut section, mut comment, mut found) = (String::new(), String::new(), Vec::new());
    for line in file.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = heading(line) {
            section = format!("{name}.");
            comment.clear();
        } else if let Some((name, value)) = bare.split_once(" = ").filter(|(name, _)| is_name(name)) {
            let short = comment.rsplit_once('[').and_then(|(_, rest)| rest.split_once(']'));
            let short = short.map(|(names, _)| names.split(", ").map(str::to_owned).collect());
            found.push(Setting {
                name: format!("{section}{name}"),
                default: (bare == line).then(|| value.trim_matches('"').to_owned()),
                short: short
                    .filter(|names: &Vec<String>| names.iter().all(|name| is_variable(name)))
                    .unwrap_or_default(),
            });
            comment.clear();
        } else if line.starts_with('#') {
            comment.push_str(bare);
        } else {
            comment.clear();
        }
    }
    found
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

#[test]
fn the_settings_reference_is_fresh() {
    let file = text(SOURCE);
    let settings = settings(&file);
    let mut body = String::from("| setting | default | short variable |\n|---|---|---|\n");
    for Setting { name, default, short } in &settings {
        let default = default
            .as_ref()
            .map_or_else(|| "none".to_owned(), |value| format!("`{value}`"));
        let short: Vec<_> = short.iter().map(|name| format!("`{name}`")).collect();
        writeln!(body, "| `{name}` | {} | {} |", cell(&default), short.join(", ")).unwrap();
    }
    write!(body, "\n## The file, with what each means\n\n```toml\n{file}```\n").unwrap();
    check(
        "settings.md",
        &page("Settings", &format!("`{SOURCE}`"), INTRODUCTION, &body),
    );
}

#[test]
fn the_table_has_every_setting_that_config_show_knows() {
    let output = Command::new(env!("CARGO_BIN_EXE_im-dispatcher"))
        .args(["config", "show", "--json", "--config", "/dev/null"])
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let shown: Vec<&String> = shown.as_object().unwrap().keys().collect();
    assert!(shown.len() > 25, "{shown:?}");
    let listed = settings(&text(SOURCE));
    for name in shown {
        let plain = name.strip_suffix("_file").unwrap_or(name);
        let there = listed
            .iter()
            .any(|setting| setting.name == *name || setting.name == plain);
        assert!(there, "{name} isn't in {SOURCE}");
    }
}

#[test]
fn settings_are_read_with_their_sections_defaults_and_short_names() {
    let file = "# Prefix. [IM_A]\nname = \"im\"\n\n# Text.\n# [IM_B, IM_B_FILE]\n# key = \"…\"\n[lanes.high]\n# prefetch = 16\nfloor = 0.0\n";
    let setting = |name: &str, default: Option<&str>, short: &[&str]| Setting {
        name: name.to_owned(),
        default: default.map(str::to_owned),
        short: short.iter().map(|name| (*name).to_owned()).collect(),
    };
    assert_eq!(
        settings(file),
        [
            setting("name", Some("im"), &["IM_A"]),
            setting("key", None, &["IM_B", "IM_B_FILE"]),
            setting("lanes.high.prefetch", None, &[]),
            setting("lanes.high.floor", Some("0.0"), &[]),
        ]
    );
}
