//! The table of codes against im-api, and the laws of classification.

use proptest::prelude::*;

use crate::{
    domain::{
        Command, ErrorClass,
        ErrorClass::{AlreadyDone, Ambiguous, Auth, Blocked, Permanent, Recipient, Throttled, Transient},
        ErrorCode,
    },
    im::error_code::{TABLE, class_in_error_list, class_of, lookup, names_signature},
};

fn class(code: i32, command: Command) -> ErrorClass {
    class_of(ErrorCode(code), command)
}

/// im-api, section 6, typed a second time from the document.
const DOCUMENTED: [(ErrorClass, &[i32]); 7] = [
    (
        Transient,
        &[
            60008, 60013, 60014, 20004, 20005, 70169, 70202, 70500, 80003, 90992, 90994, 90995, 91000,
        ],
    ),
    (Throttled, &[60007, 60011, 60018, 60019]),
    (
        Auth,
        &[
            70001, 70002, 70003, 70005, 70009, 70013, 70014, 70016, 70020, 70050, 70051, 70052, 70114, 70398, 20002,
            60004, 60005, 60010, 70403, 90009, 60006, 60012, 60016, 60017, 60020, 60021,
        ],
    ),
    (
        Permanent,
        &[
            60002, 60003, 60009, 60015, 20001, 90001, 90002, 90010, 90003, 90005, 90006, 90007, 90008, 90011, 90018,
            90030, 90031, 90026, 90043, 90044, 90054, 90055, 80002, 93000, 70206, 70402, 20022, 20016,
        ],
    ),
    (Recipient, &[90012, 90048, 70107, 20003]),
    (Blocked, &[20006, 20007, 20008, 20009, 20010, 20011, 20012, 80001]),
    (AlreadyDone, &[20023]),
];

#[test]
fn every_documented_code_is_in_the_table_with_its_class_and_no_other_is() {
    let mut documented = 0;
    for (class, codes) in DOCUMENTED {
        for code in codes {
            documented += 1;
            let info = lookup(ErrorCode(*code)).unwrap_or_else(|| panic!("{code} is not in the table"));
            assert_eq!(info.class, class, "{code}");
        }
    }
    assert_eq!(documented, TABLE.len());
}

#[test]
fn the_table_is_sorted_and_says_what_each_code_means_and_what_to_do() {
    assert!(TABLE.is_sorted_by(|a, b| a.code < b.code));
    assert!(
        TABLE
            .iter()
            .all(|info| !info.meaning.is_empty() && !info.advice.is_empty())
    );
}

#[test]
fn an_inner_fault_leaves_a_send_in_doubt_and_nothing_else() {
    for code in [60008, 91000, 90992, 90994, 90995, 20004, 20005, 60013, 60014, 70169] {
        for command in Command::ALL {
            let expected = if command.leaves_doubt() { Ambiguous } else { Transient };
            assert_eq!(class(code, command), expected, "{code} {command}");
        }
        assert_eq!(class_in_error_list(ErrorCode(code)), Transient);
    }
    assert_eq!(class(80003, Command::SendMsg), Transient);
    assert_eq!(class(80003, Command::BatchSendMsg), Transient);
}

#[test]
fn codes_of_the_apps_callback_are_blocked() {
    for code in [120_001, 125_000, 130_000] {
        assert_eq!(class(code, Command::SendMsg), Blocked);
        assert_eq!(class_in_error_list(ErrorCode(code)), Blocked);
    }
    for code in [120_000, 130_001] {
        assert!(lookup(ErrorCode(code)).is_none());
    }
}

#[test]
fn already_revoked_is_a_success_of_revoking_only() {
    assert_eq!(class(20023, Command::MsgWithdraw), AlreadyDone);
    assert_eq!(class(20023, Command::SendMsg), Ambiguous);
    assert_eq!(class(20023, Command::ImportMsg), Transient);
    assert_eq!(class_in_error_list(ErrorCode(20023)), Transient);
}

#[test]
fn only_auth_codes_name_the_signature() {
    for info in TABLE.iter().filter(|info| names_signature(info.code)) {
        assert_eq!(info.class, Auth, "{}", info.code);
    }
    assert!(!names_signature(ErrorCode(60010)) && !names_signature(ErrorCode(70050)));
}

proptest! {
    #[test]
    fn classification_is_total_and_an_unlisted_code_has_the_stated_default(code in any::<i32>()) {
        for command in Command::ALL {
            let class = class(code, command);
            if lookup(ErrorCode(code)).is_none() {
                let default = if command.leaves_doubt() { Ambiguous } else { Transient };
                prop_assert_eq!(class, default);
            }
            prop_assert!(class != Ambiguous || command.leaves_doubt());
        }
        prop_assert_ne!(class_in_error_list(ErrorCode(code)), Ambiguous);
    }
}
