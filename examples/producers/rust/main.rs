//! Publishes one job and waits for its outcome: exit code 0 if the message was sent.
//!
//! ```sh
//! cargo run --example publish
//! ```
#![expect(clippy::print_stdout, reason = "it is what the program is for")]

use std::{env, error::Error, process::ExitCode, time::Duration};

use im_dispatcher::{
    domain::{
        AccountId, JobId, Lane,
        event::Outcome,
        job::{Job, Task},
        message::Message,
    },
    producer::{Producer, ProducerOptions},
};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let url = env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned());
    let mut options = ProducerOptions::new(url);
    if let Ok(namespace) = env::var("IM_DISPATCHER_NAMESPACE") {
        options.namespace = namespace;
    }
    let producer = Producer::connect(options).await?;

    // Before the job, or its event may come first.
    let mut outcomes = producer.outcomes(&["send.*"]).await?;

    let job = Job::new(
        JobId::parse(uuid::Uuid::new_v4().to_string())?,
        Task::Send {
            from: None,
            to: AccountId::parse("alice")?,
            message: Message::from_text("Hello from Rust"),
        },
    );
    // Returns when a queue has it for good: persistent, mandatory, confirmed.
    producer.publish(Lane::High, &job).await?;
    println!("published {}", job.id);

    let event = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            match outcomes.next().await {
                Ok(event) if event.data.job_id != job.id => {}
                other => break other,
            }
        }
    })
    .await??;
    println!("{}", String::from_utf8(event.to_bytes())?);
    outcomes.close().await;
    producer.close().await;
    Ok(if event.outcome == Outcome::Sent {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
