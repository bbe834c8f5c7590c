// Publishes one job and waits for its outcome: exit code 0 if the message was sent. Needs amqplib.

import { randomUUID } from 'node:crypto';
import amqp from 'amqplib';

const url = process.env.AMQP_URL ?? 'amqp://guest:guest@127.0.0.1:5672/%2f';
const namespace = process.env.IM_DISPATCHER_NAMESPACE ?? 'im';

const connection = await amqp.connect(url);
const channel = await connection.createConfirmChannel();

// The id is the idempotency key: choose it once, and publish the same job again whenever in doubt.
const job = { type: 'send', id: randomUUID(), to: 'alice', message: { text: 'Hello from Node' } };

// A queue of our own for outcomes, before the job, or its event may come first.
const { queue } = await channel.assertQueue('', { exclusive: true });
await channel.bindQueue(queue, `${namespace}.events`, 'send.*');
const outcome = new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error('no outcome within 30 s: is a worker running?')), 30_000).unref();
  const take = ({ content }) => {
    const event = JSON.parse(content);
    if (event.subject === job.id) resolve(event);
  };
  channel.consume(queue, take, { noAck: true }).catch(reject);
});

// What no queue takes is confirmed too, and returned just before.
let returned;
channel.on('return', (message) => { returned = message.fields.replyText; });
const properties = { mandatory: true, persistent: true, contentType: 'application/json', messageId: job.id };
channel.publish(`${namespace}.jobs`, 'high', Buffer.from(JSON.stringify(job)), properties);
await channel.waitForConfirms(); // rejects if the broker refuses it
if (returned) throw new Error(`no queue took the job: ${returned}`);
console.log('published', job.id);

const event = await outcome;
console.log(JSON.stringify(event));
await connection.close();
process.exitCode = event.type === 'im.message.sent' ? 0 : 1;
