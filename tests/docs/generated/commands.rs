//! `docs/reference/commands.md`, from the command line's own parser.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory};
use im_dispatcher::cli::Cli;

use super::{cell, check, page, sentence};

const INTRODUCTION: &str = "\
`im-dispatcher COMMAND --help` says the same. Results for machines go to stdout (`--json`), everything else to stderr. Exit codes: 0
done, 1 failed, 2 wrong usage or configuration. What each prints as JSON is in [the contract](../contract.md), sections 2, 6 and 8.
Settings come from flags, the environment, a TOML file and defaults, in this order of precedence: see [Settings](settings.md).";

#[test]
fn the_command_reference_is_fresh() {
    let mut root = Cli::command();
    root.build();
    let mut body = String::from("| command | does |\n|---|---|\n");
    leaves(&root, "", &mut |name, command| {
        let about = command.get_about().unwrap().to_string();
        let anchor = name.replace(' ', "-");
        writeln!(body, "| [`{name}`](#{anchor}) | {} |", cell(&about)).unwrap();
    });
    body.push_str("\n## Options of every command\n\n");
    table(&mut body, root.get_arguments().filter(|arg| arg.is_global_set()));
    leaves(&root, "", &mut |name, command| section(&mut body, name, command));
    check(
        "commands.md",
        &page("Commands", "the command line", INTRODUCTION, &body),
    );
}

/// Each command that does something, with its whole name.
fn leaves(command: &Command, prefix: &str, visit: &mut impl FnMut(&str, &Command)) {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let name = format!("{prefix}{}", sub.get_name());
        if sub.has_subcommands() {
            leaves(sub, &format!("{name} "), visit);
        } else {
            visit(&name, sub);
        }
    }
}

fn section(body: &mut String, name: &str, command: &Command) {
    let about = command.get_long_about().or(command.get_about()).unwrap().to_string();
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim().trim_start_matches("Usage: ");
    write!(body, "\n## {name}\n\n{}\n\n```text\n{usage}\n```\n\n", sentence(&about)).unwrap();
    let own = |arg: &&Arg| {
        !arg.is_global_set() && !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str())
    };
    if command.get_arguments().any(|arg| own(&arg)) {
        table(body, command.get_arguments().filter(own));
    }
    // A long help is a text of its own, with its lines.
    for arg in command.get_arguments().filter(own) {
        let long = arg.get_long_help().map(ToString::to_string).unwrap_or_default();
        if long.contains("\n\n") {
            write!(body, "\n`{}`:\n\n```text\n{}\n```\n", spelled(arg), long.trim()).unwrap();
        }
    }
    if let Some(after) = command.get_after_help() {
        write!(body, "\n{}\n", sentence(&after.to_string())).unwrap();
    }
}

fn table<'a>(body: &mut String, arguments: impl Iterator<Item = &'a Arg>) {
    body.push_str("| argument | meaning |\n|---|---|\n");
    for arg in arguments {
        let help = arg.get_help().or(arg.get_long_help()).map(ToString::to_string);
        let help = help.unwrap_or_default();
        let mut meaning = sentence(help.split("\n\n").next().unwrap());
        let values: Vec<_> = arg
            .get_possible_values()
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| format!("`{}`", value.get_name()))
            .collect();
        if arg.get_action().takes_values() && !values.is_empty() {
            write!(meaning, " One of {}.", values.join(", ")).unwrap();
        }
        let defaults: Vec<_> = arg
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy())
            .collect();
        if arg.get_action().takes_values() && !defaults.is_empty() {
            write!(meaning, " Default: `{}`.", defaults.join(" ")).unwrap();
        }
        if let Some(variable) = arg.get_env() {
            write!(meaning, " Environment: `{}`.", variable.to_string_lossy()).unwrap();
        }
        writeln!(body, "| `{}` | {} |", spelled(arg).replace('|', "\\|"), cell(&meaning)).unwrap();
    }
}

/// An argument as it is typed.
fn spelled(arg: &Arg) -> String {
    let values = arg.get_value_names().unwrap_or_default().join(" ");
    let value = if arg.get_action().takes_values() {
        values
    } else {
        String::new()
    };
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    let more = matches!(arg.get_action(), clap::ArgAction::Append);
    let whole = format!("{} {value}", names.join(", ")).trim().to_owned();
    if more { format!("{whole}…") } else { whole }
}
