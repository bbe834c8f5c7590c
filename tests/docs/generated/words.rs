//! `docs/reference/words.md`, from the tables that `explain`, the dashboard and the events take their sentences from.

use std::fmt::Write as _;

use im_dispatcher::{explain, im::error_code::TABLE};

use super::{capital, cell, check, page};

const INTRODUCTION: &str = "\
Every word that stands in `x-im-error-code`, in an event's `error.code`, in a status object, in `explain` and on the dashboard. The class decides what
is done: `transient` is tried again with growing delays, `throttled` slows the budget and costs no attempt, `ambiguous` asks the history, `auth`
pauses the app, `recipient` and `blocked` end that recipient only, `permanent` ends the job, `already_done` is a success. What makes a
message appear is in doubt after a `transient` answer, too, unless the code rules that out.";

#[test]
fn the_reference_of_words_and_codes_is_fresh() {
    let mut body = String::from("## Words of im-dispatcher\n\n| word | meaning | do |\n|---|---|---|\n");
    for (word, known) in explain::words() {
        let word = match word {
            "http" => "http-STATUS",
            "broker" => "broker-REASON",
            word => word,
        };
        row(&mut body, &format!("`{word}`"), known.meaning, known.advice);
    }
    body.push_str("\n## Codes of the IM API\n\n| code | class | meaning | do |\n|---|---|---|---|\n");
    for info in TABLE {
        let code = format!("`{}` | {}", info.code.word(), info.class.as_str());
        row(&mut body, &code, info.meaning, info.advice);
    }
    let callback = explain::meaning("im-120001").unwrap();
    row(
        &mut body,
        "`im-120001` to `im-130000` | blocked",
        callback.meaning,
        callback.advice,
    );
    check(
        "words.md",
        &page(
            "Words and codes",
            "`src/explain/words.rs` and `src/im/error_code.rs`",
            INTRODUCTION,
            &body,
        ),
    );
}

fn row(body: &mut String, word: &str, meaning: &str, advice: &str) {
    writeln!(
        body,
        "| {word} | {} | {} |",
        cell(&capital(meaning)),
        cell(&capital(advice))
    )
    .unwrap();
}
