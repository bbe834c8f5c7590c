//! Every command of the documents is one that exists: `im-dispatcher …` is taken by its own parser, a script is there and knows its
//! options, a path of this repository is one. A block that isn't run (`tests/it/documented.rs`) says why.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt};

use clap::{Command, CommandFactory, error::ErrorKind};
use im_dispatcher::cli::Cli;

use crate::{
    markdown::{blocks, documents, path, prose, text},
    shell::commands,
};

/// Programs of others that a block may use without being run.
const OTHERS: &[&str] = &[
    ".",
    "[",
    "apt",
    "apt-get",
    "bash",
    "brew",
    "cargo",
    "cat",
    "cd",
    "cp",
    "createdb",
    "curl",
    "docker",
    "done",
    "echo",
    "eval",
    "export",
    "for",
    "git",
    "head",
    "jq",
    "just",
    "kill",
    "kubectl",
    "mdbook",
    "npm",
    "pg_dump",
    "pg_restore",
    "printf",
    "psql",
    "python3",
    "rabbitmqadmin",
    "rabbitmqctl",
    "sleep",
    "source",
    "sudo",
    "sudoedit",
    "systemctl",
    "wait",
];

/// Folders of this repository that a command may name.
const OURS: [&str; 6] = ["deploy/", "docs/", "examples/", "schemas/", "scripts/", "src/"];

/// What is wrong with a command, if anything.
fn fault(words: &[String]) -> Option<String> {
    let mut words = words;
    // sudo -u ACCOUNT COMMAND
    if words[0] == "sudo" {
        words = if words.get(1).is_some_and(|word| word == "-u") {
            &words[3..]
        } else {
            &words[1..]
        };
    }
    let program = words.first()?.as_str();
    if program == "im-dispatcher" {
        return refused(words);
    }
    if let Some(wrong) = words
        .iter()
        .find(|word| OURS.iter().any(|folder| word.starts_with(folder)) && !path(word).exists())
    {
        return Some(format!("there is no {wrong}"));
    }
    if program.starts_with("scripts/") {
        return script_fault(words);
    }
    (!OTHERS.contains(&program)).then(|| format!("{program} is no program that documents use"))
}

fn refused(words: &[String]) -> Option<String> {
    match Cli::command().try_get_matches_from(words) {
        Ok(_) => None,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// What a script reads its options in, its own text apart.
fn readers(script: &str) -> &'static [&'static str] {
    match script {
        "scripts/chaos.sh" => &["examples/chaos/main.rs"],
        "scripts/bench.sh" => &[
            "scripts/bench/budget.sh",
            "benches/dispatch/main.rs",
            "examples/budget/main.rs",
        ],
        _ => &[],
    }
}

fn script_fault(words: &[String]) -> Option<String> {
    let script = &words[0];
    if path(script).metadata().unwrap().permissions().mode() & 0o111 == 0 {
        return Some(format!("{script} can't be executed"));
    }
    // What comes behind `--` or goes to cargo is not the script's.
    if script == "scripts/test.sh" {
        return None;
    }
    let known: String = std::iter::once(script.as_str())
        .chain(readers(script).iter().copied())
        .map(text)
        .collect();
    let options = words[1..].iter().filter(|word| word.starts_with("--"));
    let mut unknown =
        options.filter(|option| !known.contains(option.as_str()) && !known.contains(&option[2..].replace('-', "_")));
    unknown.next().map(|option| format!("{script} knows no {option}"))
}

#[test]
fn every_command_of_a_block_exists() {
    let mut faults = Vec::new();
    let (mut count, mut ours) = (0, 0);
    for document in documents() {
        for block in blocks(&text(&document)).iter().filter(|block| block.language == "sh") {
            for words in commands(&block.text) {
                count += 1;
                ours += usize::from(words[0] == "im-dispatcher");
                if let Some(fault) = fault(&words) {
                    faults.push(format!("{document}:{}: {}: {fault}", block.line, words.join(" ")));
                }
            }
        }
    }
    assert!(faults.is_empty(), "commands that don't exist:\n{}", faults.join("\n"));
    assert!(
        count > 60 && ours > 30,
        "only {count} commands, {ours} of ours: has the search broken?"
    );
}

#[test]
fn shell_is_always_marked_as_sh_so_that_no_command_goes_untested() {
    let known: BTreeSet<&str> = ["csv", "json", "mermaid", "rust", "sh", "text", "toml", "xml"].into();
    for document in documents() {
        for block in blocks(&text(&document)) {
            assert!(
                known.contains(block.language.as_str()),
                "{document}:{}: a block of {:?}: commands are `sh`, what is printed is `text`",
                block.line,
                block.language
            );
        }
    }
}

#[test]
fn every_command_in_a_sentence_exists() {
    let root = Cli::command();
    let mut faults = Vec::new();
    let mut count = 0;
    for document in documents() {
        for (index, line) in prose(&text(&document)).lines().enumerate() {
            for span in line.split('`').skip(1).step_by(2) {
                let words: Vec<String> = commands(span).into_iter().next().unwrap_or_default();
                let fault = match words.first().map(String::as_str) {
                    Some("im-dispatcher") => unknown_word(&root, &words[1..]),
                    Some(program) if program.starts_with("scripts/") && program.len() > "scripts/".len() => {
                        if path(program).exists() {
                            script_fault(&words)
                        } else {
                            Some(format!("there is no {program}"))
                        }
                    }
                    _ => continue,
                };
                count += 1;
                faults.extend(fault.map(|fault| format!("{document}:{}: {span}: {fault}", index + 1)));
            }
        }
    }
    assert!(faults.is_empty(), "commands that don't exist:\n{}", faults.join("\n"));
    assert!(count > 40, "only {count} commands were found: has the search broken?");
}

/// The first subcommand or option that isn't one. Values may be left out, and are written in capitals: nothing is parsed.
fn unknown_word(root: &Command, words: &[String]) -> Option<String> {
    let mut command = root.clone();
    let mut leaf = false;
    for word in words {
        if let Some(option) = word.strip_prefix("--") {
            let name = option.split('=').next().unwrap();
            let of = |command: &Command| command.get_arguments().any(|arg| arg.get_long() == Some(name));
            if !of(&command) && !of(root) && !["help", "version"].contains(&name) {
                return Some(format!("{} has no --{name}", command.get_name()));
            }
        } else if !leaf {
            match command.find_subcommand(word).cloned() {
                Some(sub) => {
                    leaf = !sub.has_subcommands();
                    command = sub;
                }
                None if word.chars().all(|c| c.is_ascii_uppercase()) || word == "help" || word == "…" => return None,
                None => return Some(format!("{word} is no command")),
            }
        }
    }
    None
}

#[test]
fn a_command_that_does_not_exist_is_found() {
    let words = |text: &str| commands(text).remove(0);
    for right in [
        "im-dispatcher status one --wait",
        "im-dispatcher --help",
        "sudo -u im-dispatcher im-dispatcher check --config x.toml",
        "scripts/chaos.sh --minutes 1",
        "scripts/demo.sh --dashboard",
        "kubectl apply -k deploy/kubernetes/base",
    ] {
        assert_eq!(fault(&words(right)), None, "{right}");
    }
    for wrong in [
        "im-dispatcher sta one",
        "im-dispatcher status one --wiat",
        "im-dispatcher submit --lane",
        "scripts/domo.sh",
        "scripts/demo.sh --dashbord",
        "kubectl apply -k deploy/kubernetes/bse",
        "rm -rf x",
    ] {
        assert!(fault(&words(wrong)).is_some(), "{wrong}");
    }
    let root = Cli::command();
    assert_eq!(unknown_word(&root, &words("dead-letters replay ID --all")), None);
    assert!(unknown_word(&root, &words("dead-letters replya")).is_some());
    assert!(unknown_word(&root, &words("status --grop G")).is_some());
}
