//! The pure parts of the hot path by themselves: `cargo bench --bench hot`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use im_dispatcher::{
    domain::{
        AccountId, Command, ErrorCode,
        job::{Job, Task},
    },
    im::{Pair, encode_batch, encode_send, lookup, reply::check_reply, user_sig},
    simulator::{SAMPLE_SDK_APP_ID, SAMPLE_SECRET},
};

/// A notification as producers send it.
const JOB: &[u8] = br#"{"type":"send","id":"order-20261124-00004711","group":"orders","to":"user_04711","message":{"text":"Your parcel 00004711 is on its way: it will be there tomorrow before noon.","offline_push":{"Title":"Parcel","Desc":"On its way"}}}"#;
const REPLY: &[u8] =
    br#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"MsgTime":1700000000,"MsgKey":"2342086906_1786966646_1700000000"}"#;

fn decode(bench: &mut Criterion) {
    bench.bench_function("decode a send", |b| {
        b.iter(|| Job::decode(black_box(JOB), None).expect("a good job"));
    });
    let job = Job::decode(JOB, None).expect("a good job");
    bench.bench_function("digest a send", |b| b.iter(|| black_box(&job).digest()));
    let to: Vec<String> = (0..10_000).map(|number| format!("\"user_{number:05}\"")).collect();
    let batch = format!(
        r#"{{"type":"batch_send","id":"campaign","to":[{}],"message":{{"text":"The summer sale has begun."}}}}"#,
        to.join(",")
    );
    bench.bench_function("decode a batch of 10,000", |b| {
        b.iter(|| Job::decode(black_box(batch.as_bytes()), None).expect("a good job"));
    });
}

fn encode(bench: &mut Criterion) {
    let job = Job::decode(JOB, None).expect("a good job");
    let Task::Send { to, message, .. } = &job.task else {
        unreachable!("it is a send")
    };
    let from = AccountId::parse("administrator").expect("an account");
    let pair = Pair { seq: 1, random: 2 };
    bench.bench_function("encode a send", |b| {
        b.iter(|| encode_send(Some(&from), black_box(to), message, pair));
    });
    let members: Vec<AccountId> = (0..500)
        .map(|number| AccountId::parse(format!("user_{number:05}")).expect("an account"))
        .collect();
    bench.bench_function("encode a batch of 500", |b| {
        b.iter(|| encode_batch(Some(&from), black_box(&members), message, pair));
    });
}

fn sign(bench: &mut Criterion) {
    let secret = SAMPLE_SECRET.into();
    bench.bench_function("sign a UserSig", |b| {
        b.iter(|| {
            user_sig::sign(
                SAMPLE_SDK_APP_ID,
                black_box("administrator"),
                &secret,
                1_700_000_000,
                180,
            )
        });
    });
}

fn classify(bench: &mut Criterion) {
    bench.bench_function("read a reply", |b| {
        b.iter(|| check_reply(Command::SendMsg, black_box(REPLY)).expect("a success"));
    });
    bench.bench_function("classify a code", |b| b.iter(|| lookup(black_box(ErrorCode(90_012)))));
}

criterion_group!(hot, decode, encode, sign, classify);
criterion_main!(hot);
