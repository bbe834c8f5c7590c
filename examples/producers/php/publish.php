<?php
// Publishes one job and waits for its outcome: exit code 0 if the message was sent. Needs php-amqplib (3.x): from
// composer, or the Debian package of that name.

use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Exception\AMQPTimeoutException;
use PhpAmqpLib\Message\AMQPMessage;

require is_file(__DIR__ . '/vendor/autoload.php') ? __DIR__ . '/vendor/autoload.php' : 'PhpAmqpLib/autoload.php';

function fail(string $why): never
{
    fwrite(STDERR, "$why\n");
    exit(1);
}

$url = parse_url(getenv('AMQP_URL') ?: 'amqp://guest:guest@127.0.0.1:5672/%2f');
$namespace = getenv('IM_DISPATCHER_NAMESPACE') ?: 'im';
$vhost = rawurldecode(substr($url['path'] ?? '', 1)) ?: '/';
$connection = new AMQPStreamConnection(
    $url['host'], $url['port'] ?? 5672, rawurldecode($url['user'] ?? 'guest'), rawurldecode($url['pass'] ?? 'guest'), $vhost
);
$channel = $connection->channel();
$channel->confirm_select();
$channel->set_nack_handler(fn () => fail('the broker refused the job'));
$channel->set_return_listener(fn ($code, $text) => fail("no queue took the job: $text"));

// A queue of our own for outcomes, before the job, or its event may come first.
[$events] = $channel->queue_declare('', false, false, true, true);
$channel->queue_bind($events, "$namespace.events", 'send.*');

// The id is the idempotency key: choose it once, and publish the same job again whenever in doubt.
$id = 'php-' . bin2hex(random_bytes(16));
$job = ['type' => 'send', 'id' => $id, 'to' => 'alice', 'message' => ['text' => 'Hello from PHP']];
$properties = [
    'content_type' => 'application/json',
    'delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT,
    'message_id' => $id,
];
$mandatory = true;
$channel->basic_publish(new AMQPMessage(json_encode($job), $properties), "$namespace.jobs", 'high', $mandatory);
$channel->wait_for_pending_acks_returns(30);
echo "published $id\n";

$outcome = null;
$take = function (AMQPMessage $message) use (&$outcome, $id): void {
    $event = json_decode($message->getBody(), true);
    if ($event['subject'] === $id) {
        $outcome = $event;
    }
};
$channel->basic_consume($events, '', false, true, false, false, $take);
try {
    while ($outcome === null) {
        $channel->wait(null, false, 30);
    }
} catch (AMQPTimeoutException) {
    fail('no outcome within 30 s: is a worker running?');
}

echo json_encode($outcome), "\n";
$channel->close();
$connection->close();
exit($outcome['type'] === 'im.message.sent' ? 0 : 1);
