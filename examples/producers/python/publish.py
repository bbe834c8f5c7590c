"""Publishes one job and waits for its outcome: exit code 0 if the message was sent. Needs pika (1.2 or later)."""

import json
import os
import sys
import uuid

import pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")
NAMESPACE = os.environ.get("IM_DISPATCHER_NAMESPACE", "im")

connection = pika.BlockingConnection(pika.URLParameters(URL))
channel = connection.channel()
channel.confirm_delivery()

# A queue of our own for outcomes, before the job, or its event may come first.
events = channel.queue_declare("", exclusive=True).method.queue
channel.queue_bind(events, f"{NAMESPACE}.events", "send.*")

# The id is the idempotency key: choose it once, and publish the same job again whenever in doubt.
job = {"type": "send", "id": str(uuid.uuid4()), "to": "alice", "message": {"text": "Hello from Python"}}

# Returns when a queue has the job for good; raises UnroutableError or NackError if none has.
channel.basic_publish(
    exchange=f"{NAMESPACE}.jobs",
    routing_key="high",
    body=json.dumps(job),
    properties=pika.BasicProperties(content_type="application/json", delivery_mode=2),
    mandatory=True,
)
print("published", job["id"])

for method, _properties, body in channel.consume(events, auto_ack=True, inactivity_timeout=30):
    if method is None:
        sys.exit("no outcome within 30 s: is a worker running?")
    event = json.loads(body)
    if event["subject"] == job["id"]:
        break

print(json.dumps(event))
connection.close()
sys.exit(0 if event["type"] == "im.message.sent" else 1)
