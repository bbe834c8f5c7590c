mod policy;

use std::{collections::BTreeSet, fs, time::Duration};

use secrecy::ExposeSecret;

use super::{
    known::{APP_SETTINGS, SETTINGS},
    *,
};
use crate::domain::{AppName, Command, Lane};

fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    if !file.is_empty() {
        fs::write(directory.path().join("im-dispatcher.toml"), file).unwrap();
    }
    Settings::load(&LoadOptions {
        config: None,
        directory: Some(directory.path().to_owned()),
        flags: flags
            .iter()
            .map(|(path, value)| FlagValue {
                path: (*path).to_owned(),
                flag: "--set".to_owned(),
                value: (*value).to_owned(),
            })
            .collect(),
        environment: environment.iter().copied().collect(),
    })
}

fn error(file: &str, environment: &[(&str, &str)]) -> String {
    let text = load(file, environment, &[]).unwrap_err().to_string();
    assert!(!text.contains('\n'), "one line: {text}");
    text
}

fn origin_of(settings: &Settings, name: &str) -> String {
    let row = settings.effective().into_iter().find(|row| row.name == name).unwrap();
    row.origin.unwrap()
}

const APP: &[(&str, &str)] = &[("IM_SDK_APP_ID", "1400000000"), ("IM_SECRET_KEY", "sk")];

#[test]
fn the_defaults_are_the_contracts() {
    let settings = load("", APP, &[]).unwrap();
    assert_eq!(settings.namespace, "im");
    assert!(settings.database_url.is_none());
    assert_eq!(
        settings.amqp_url.expose_secret(),
        "amqp://guest:guest@127.0.0.1:5672/%2f"
    );
    assert_eq!(settings.http.addr.unwrap().to_string(), "127.0.0.1:8080");
    let app = settings.require_default_app().unwrap();
    assert_eq!(app.admin_account.as_str(), "administrator");
    assert_eq!(app.base_url.as_str(), "https://console.tim.qq.com/");
    for command in Command::ALL {
        assert_eq!(app.limits.calls_per_second(command), 200);
    }
    assert_eq!(app.limits.recipients_per_minute, 12_000);
    assert_eq!(settings.im.usersig_lifetime, Duration::from_secs(30));
    assert_eq!((settings.im.import_unread, settings.im.import_read), (5, 2));
    assert_eq!(settings.budget.guard, Duration::from_millis(4));
    assert!(settings.budget.fleet && settings.worker.migrate && !settings.dead_letters.recipients);
    assert_eq!(settings.retry.max, Duration::from_mins(10));
    assert_eq!(settings.retention.ids, Duration::from_hours(90 * 24));
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = "namespace = \"from-file\"";
    let environment = [("IM_DISPATCHER_NAMESPACE", "from-env")];
    let flag = [("namespace", "from-flag")];
    let named = |settings: Result<Settings, ConfigError>| {
        let settings = settings.unwrap();
        (settings.namespace.clone(), origin_of(&settings, "namespace"))
    };
    assert_eq!(named(load("", &[], &[])), ("im".into(), "the defaults".into()));
    let (value, origin) = named(load(file, &[], &[]));
    assert_eq!(value, "from-file");
    assert!(
        origin.starts_with("file ") && origin.ends_with("im-dispatcher.toml"),
        "{origin}"
    );
    assert_eq!(
        named(load(file, &environment, &[])),
        ("from-env".into(), "environment variable IM_DISPATCHER_NAMESPACE".into())
    );
    assert_eq!(
        named(load(file, &environment, &flag)),
        ("from-flag".into(), "flag --set".into())
    );
}

#[test]
fn every_setting_has_an_environment_form() {
    let settings = load(
        "",
        &[
            ("IM_DISPATCHER__LANES__BULK__PREFETCH", "7"),
            ("IM_DISPATCHER__LANES__BULK__FLOOR", "0.25"),
            ("IM_DISPATCHER__RETRY__INITIAL", "250ms"),
            ("IM_DISPATCHER__BUDGET__WINDOW", "answered"),
            ("IM_DISPATCHER__DEAD_LETTERS__RECIPIENTS", "true"),
            ("IM_DISPATCHER__APPS__SHOP__SDK_APP_ID", "9"),
            ("IM_DISPATCHER__APPS__SHOP__SECRET", "s"),
            ("IM_DISPATCHER__APPS__SHOP__LIMITS__SENDMSG", "11"),
        ],
        &[],
    )
    .unwrap();
    assert_eq!(settings.lane(Lane::Bulk).prefetch, Some(7));
    assert!((settings.lane(Lane::Bulk).floor - 0.25).abs() < 1e-9);
    assert_eq!(settings.retry.initial, Duration::from_millis(250));
    assert_eq!(settings.budget.window, WindowMode::Answered);
    assert!(settings.dead_letters.recipients);
    let shop = settings.require_app(&AppName::parse("shop").unwrap()).unwrap();
    assert_eq!(shop.sdk_app_id.0, 9);
    assert_eq!(shop.limits.calls_per_second(Command::SendMsg), 11);
    assert_eq!(shop.limits.calls_per_second(Command::ImportMsg), 200);
}

#[test]
fn an_environment_form_finds_the_files_app_by_its_name_without_case_and_dash() {
    let settings = load(
        "[apps.My-Shop]\nsdk_app_id = 5\nsecret = \"a\"",
        &[("IM_DISPATCHER__APPS__MY_SHOP__SECRET", "b")],
        &[],
    )
    .unwrap();
    let app = settings.require_app(&AppName::parse("My-Shop").unwrap()).unwrap();
    assert_eq!(app.secret.expose_secret(), "b");
}

#[test]
fn an_unknown_key_of_the_file_stops_the_start_with_a_suggestion() {
    assert!(error("[retry]\ninitail = \"1s\"", &[]).contains("unknown setting retry.initail from file"));
    assert!(error("[retry]\ninitail = \"1s\"", &[]).ends_with("did you mean retry.initial?"));
    assert!(error("[htpp]\naddr = \"\"", &[]).contains("did you mean http"));
    assert!(error("[apps.default]\nsdk_appid = 1", &[]).ends_with("did you mean apps.default.sdk_app_id?"));
    assert!(error("zzz = 1", &[]).contains("config show"));
}

#[test]
fn an_unknown_long_variable_stops_the_start_and_an_unknown_short_one_warns() {
    let text = error("", &[("IM_DISPATCHER__RETRY__INITAIL", "1s")]);
    assert!(text.ends_with("did you mean IM_DISPATCHER__RETRY__INITIAL?"), "{text}");
    assert!(error("", &[("IM_DISPATCHER__RETRY__INITAIL", "")]).contains("unknown setting"));
    let settings = load(
        "",
        &[
            ("IM_DISPATCHER_PORT", "tcp://10.0.0.1:80"),
            ("IM_DISPATCHER_NAMESPASE", "x"),
        ],
        &[],
    )
    .unwrap();
    assert_eq!(settings.warnings().len(), 2);
    assert!(
        settings
            .warnings()
            .iter()
            .any(|w| w.contains("did you mean IM_DISPATCHER_NAMESPACE?"))
    );
    assert!(settings.warnings().iter().all(|w| !w.contains("10.0.0.1")));
}

#[test]
fn a_wrong_value_is_one_line_with_name_origin_and_what_would_be_right() {
    assert_eq!(
        error(
            "",
            &[
                ("IM_RATE_LIMIT", "fast"),
                ("IM_SDK_APP_ID", "1"),
                ("IM_SECRET_KEY", "k")
            ]
        ),
        "im.rate_limit from environment variable IM_RATE_LIMIT: expected a whole number from 0 to 1000000, got \"fast\""
    );
    assert!(error("[im]\ntotal_timeout = 5", &[]).contains("expected a duration with its unit"));
    assert!(error("[budget]\nwindow = \"both\"", &[]).contains("expected sent or answered, got \"both\""));
    assert!(error("namespace = \"a b\"", &[]).contains("letters, digits"));
    assert!(error("http = 5", &[]).contains("expected a section, [http]"));
    assert!(error("[lanes.bulk]\nfloor = 0.9", &[]).contains("sum up to"));
    assert!(error("[retry]\nmax = \"10ms\"", &[]).contains("shorter than retry.initial"));
    assert!(error("namespace = \"a\"\nbroken", &[]).contains("line 2"));
    assert!(error("", &[("IM_DISPATCHER_CONFIG", "/nowhere/x.toml")]).contains("can't read /nowhere/x.toml"));
    assert!(error("", &[("RUST_LOG", "im_dispatcher=loud")]).contains("RUST_LOG"));
}

#[test]
fn a_limit_of_zero_means_none_and_is_accepted() {
    let settings = load(
        "",
        &[APP, &[("IM_RATE_LIMIT", "0"), ("IM_BATCH_RECIPIENTS_PER_MINUTE", "0")]].concat(),
        &[],
    );
    let limits = settings.unwrap().require_default_app().unwrap().limits;
    assert_eq!(limits, AppLimits::uniform(0, 0));
}

#[test]
fn a_command_needs_only_the_settings_that_it_uses() {
    let settings = load(
        "",
        &[("IM_SDK_APP_ID", "many"), ("IM_DISPATCHER_HTTP_ADDR", "0.0.0.0:80")],
        &[],
    )
    .unwrap();
    let text = settings.require_default_app().unwrap_err().to_string();
    assert!(
        text.contains("IM_SDK_APP_ID") && text.contains("whole number"),
        "{text}"
    );
    assert!(
        settings
            .require_database()
            .unwrap_err()
            .to_string()
            .contains("DATABASE_URL")
    );
    let text = settings.require_http().unwrap_err().to_string();
    assert!(text.contains("IM_DISPATCHER_ADMIN_TOKEN"), "{text}");
    let text = load("", &[("IM_SDK_APP_ID", "1")], &[])
        .unwrap()
        .require_apps()
        .unwrap_err()
        .to_string();
    assert!(text.contains("IM_SECRET_KEY"), "{text}");
    let text = load("", &[], &[]).unwrap().require_apps().unwrap_err().to_string();
    assert!(text.contains("IM_SDK_APP_ID"), "{text}");
}

#[test]
fn listening_beyond_loopback_needs_an_admin_token() {
    let beyond = ("IM_DISPATCHER_HTTP_ADDR", "0.0.0.0:8080");
    assert!(load("", &[beyond], &[]).unwrap().require_http().is_err());
    assert!(
        load("", &[beyond, ("IM_DISPATCHER_READONLY_TOKEN", "r")], &[])
            .unwrap()
            .require_http()
            .is_err()
    );
    assert!(
        load("", &[beyond, ("IM_DISPATCHER_ADMIN_TOKEN", "t")], &[])
            .unwrap()
            .require_http()
            .is_ok()
    );
    assert!(
        load("", &[("IM_DISPATCHER_HTTP_ADDR", "")], &[])
            .unwrap()
            .require_http()
            .unwrap()
            .addr
            .is_none()
    );
    assert!(
        load("", &[("IM_DISPATCHER_HTTP_ADDR", "[::1]:0")], &[])
            .unwrap()
            .require_http()
            .is_ok()
    );
}

#[test]
fn plain_http_is_for_loopback_hosts_only() {
    for good in [
        "http://127.0.0.1:9",
        "http://localhost:1",
        "http://[::1]:1/",
        "https://adminapisgp.im.qcloud.com",
    ] {
        assert!(load("", &[("IM_BASE_URL", good)], &[]).is_ok(), "{good}");
    }
    for bad in [
        "http://console.tim.qq.com",
        "http://10.0.0.1",
        "ftp://x",
        "console.tim.qq.com",
        "https://h/path?x=1",
    ] {
        assert!(load("", &[("IM_BASE_URL", bad)], &[]).is_err(), "{bad}");
    }
}

#[test]
fn a_secret_comes_from_a_file_without_its_line_break() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    fs::write(&path, "s3cret\n").unwrap();
    let path = path.to_str().unwrap();
    let settings = load("", &[("IM_SDK_APP_ID", "1"), ("IM_SECRET_KEY_FILE", path)], &[]).unwrap();
    assert_eq!(settings.require_default_app().unwrap().secret.expose_secret(), "s3cret");
    let both = [
        ("IM_SDK_APP_ID", "1"),
        ("IM_SECRET_KEY_FILE", path),
        ("IM_SECRET_KEY", "x"),
    ];
    let text = load("", &both, &[])
        .unwrap()
        .require_default_app()
        .unwrap_err()
        .to_string();
    assert!(text.contains("set one of them"), "{text}");
    // The environment's value stands above the file's.
    let file = format!("[apps.default]\nsecret_file = {path:?}");
    let settings = load(&file, APP, &[]).unwrap();
    assert_eq!(settings.require_default_app().unwrap().secret.expose_secret(), "sk");
    // A file that can't be read only stops the commands that need it.
    let settings = load(
        "",
        &[("IM_SDK_APP_ID", "1"), ("IM_SECRET_KEY_FILE", "/nowhere/key")],
        &[],
    )
    .unwrap();
    assert!(
        settings
            .require_default_app()
            .unwrap_err()
            .to_string()
            .contains("/nowhere/key")
    );
}

#[test]
fn the_short_variables_stand_above_the_files_default_app_and_below_other_apps() {
    let file = "[apps.default]\nsdk_app_id = 1\nsecret = \"a\"\nbase_url = \"https://one.example\"\n\
                [apps.default.limits]\nimportmsg = 3\n\
                [apps.shop]\nsdk_app_id = 2\nsecret = \"b\"\nbase_url = \"https://two.example\"\n\
                [apps.plain]\nsdk_app_id = 3\nsecret = \"c\"";
    let environment = [("IM_BASE_URL", "http://127.0.0.1:9"), ("IM_RATE_LIMIT", "50")];
    let settings = load(file, &environment, &[]).unwrap();
    let apps = settings.require_apps().unwrap();
    let url = |name: &str| apps[&AppName::parse(name).unwrap()].base_url.to_string();
    assert_eq!(url("default"), "http://127.0.0.1:9/");
    assert_eq!(url("shop"), "https://two.example/");
    assert_eq!(url("plain"), "http://127.0.0.1:9/");
    let limits = apps[&AppName::default_app()].limits;
    assert_eq!(limits.calls_per_second(Command::SendMsg), 50);
    assert_eq!(
        limits.calls_per_second(Command::ImportMsg),
        3,
        "the file can set each command"
    );
}

#[test]
fn a_cluster_is_a_list_of_urls_and_each_is_checked_and_masked() {
    let urls = "amqp://u:pw1@h1/%2f, amqps://u:pw2@h2/%2f";
    let settings = load("", &[("AMQP_URL", urls)], &[]).unwrap();
    assert_eq!(mask_url(&settings.amqp_url), "amqp://u:***@h1/%2f,amqps://u:***@h2/%2f");
    let text = error("", &[("AMQP_URL", "amqp://u:pw1@h1/%2f,http://u:pw2@h2")]);
    assert!(text.contains("amqp_url") && !text.contains("pw"), "{text}");
}

#[test]
fn no_secret_is_shown_or_debugged_or_named_in_an_error() {
    let marked = "MARKED-5ecr3t";
    let url = format!("postgres://u:{marked}@h/db?password={marked}");
    let amqp = format!("amqp://u:{marked}@h/%2f");
    let environment = [
        ("DATABASE_URL", url.as_str()),
        ("AMQP_URL", amqp.as_str()),
        ("IM_SDK_APP_ID", "1"),
        ("IM_SECRET_KEY", marked),
        ("IM_DISPATCHER_ADMIN_TOKEN", marked),
        ("IM_DISPATCHER_READONLY_TOKEN", marked),
    ];
    let settings = load("", &environment, &[]).unwrap();
    assert!(!format!("{settings:?}").contains(marked));
    assert!(!format!("{:?}", settings.effective()).contains(marked));
    assert!(format!("{:?}", settings.effective()).contains("postgres://u:***@h/db"));
    for (name, value) in [("DATABASE_URL", marked), ("AMQP_URL", marked), ("IM_BASE_URL", marked)] {
        let text = match load("", &[(name, value)], &[]) {
            Err(error) => error.to_string(),
            Ok(settings) => settings.require_database().unwrap_err().to_string(),
        };
        assert!(!text.contains(marked), "{text}");
    }
    let text = error(&format!("[apps.default]\nsecret = {marked}"), &[]);
    assert!(!text.contains(marked), "{text}");
    let environment: Environment = environment.iter().copied().collect();
    assert!(!format!("{environment:?}").contains(marked));
}

#[test]
fn each_example_in_a_comment_of_the_default_file_can_be_used_as_it_is() {
    let settable = |line: &&str| {
        line.starts_with('[') && line.ends_with(']') && !line.contains(' ')
            || line
                .split_once(" = ")
                .is_some_and(|(field, _)| field.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let lines = DEFAULT_FILE_TEXT
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap_or(line))
        .filter(settable)
        .filter(|line| !line.chars().any(char::is_uppercase) || line.contains('"'))
        // What names a file needs the file.
        .filter(|line| !line.contains("_file = "));
    let file: Vec<&str> = lines.collect();
    let file = format!("{}\n[apps.shop]\nsdk_app_id = 1\nsecret = \"s\"", file.join("\n"));
    let settings = load(&file, &[("IM_SECRET_KEY", "k")], &[]).unwrap();
    settings.require_apps().unwrap();
    settings.require_database().unwrap();
    settings.require_http().unwrap();
    // None of them was passed over.
    for row in settings.effective().iter().filter(|row| !row.name.starts_with("apps.")) {
        let known =
            row.name.ends_with(".ca_file") || row.origin.as_ref().is_some_and(|origin| origin.starts_with("file"));
        assert!(known, "{} is in the defaults only: {:?}", row.name, row.origin);
    }
}

/// Every name that the default file sets or mentions in a comment, `section.field`.
fn documented() -> BTreeSet<String> {
    let mut section = String::new();
    let mut names = BTreeSet::new();
    for line in DEFAULT_FILE_TEXT.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            // A bracket of a comment names variables instead.
            if name.bytes().all(|b| b.is_ascii_lowercase() || b == b'.' || b == b'_') {
                section = format!("{name}.");
            }
        } else if let Some((field, _)) = line.split_once(" = ")
            && field.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        {
            names.insert(format!("{section}{field}"));
        }
    }
    names
}

#[test]
fn the_default_file_mentions_every_setting_and_no_other() {
    let documented = documented();
    for known in SETTINGS {
        assert!(
            documented.contains(known.path),
            "{} is in no line of the default file",
            known.path
        );
    }
    for known in APP_SETTINGS
        .iter()
        .filter(|known| !known.secret && !known.path.starts_with("limits."))
    {
        let path = format!("apps.default.{}", known.path);
        assert!(documented.contains(&path), "{path} is in no line of the default file");
    }
    for name in &documented {
        assert!(
            known::find(name).is_some(),
            "the default file mentions {name}, which is no setting"
        );
    }
}

#[test]
fn every_short_variable_is_named_in_the_default_file() {
    for short in SETTINGS.iter().chain(APP_SETTINGS).filter_map(|known| known.short) {
        assert!(DEFAULT_FILE_TEXT.contains(short), "{short}");
    }
}
