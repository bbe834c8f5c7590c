// Publishes one job and waits for its outcome: exit code 0 if the message was sent. Needs com.rabbitmq:amqp-client (5.x).

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.MessageProperties;
import java.nio.charset.StandardCharsets;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;

public class Publish {
    static String env(String name, String otherwise) {
        String value = System.getenv(name);
        return value == null || value.isEmpty() ? otherwise : value;
    }

    public static void main(String[] args) throws Exception {
        String namespace = env("IM_DISPATCHER_NAMESPACE", "im");
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(env("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f"));
        try (Connection connection = factory.newConnection()) {
            var channel = connection.createChannel();
            channel.confirmSelect();
            // What no queue takes is confirmed too, and returned just before.
            AtomicReference<String> returned = new AtomicReference<>();
            channel.addReturnListener((code, text, exchange, key, properties, body) -> returned.set(text));

            // The id is the idempotency key: choose it once, and publish the same job again whenever in doubt.
            String id = UUID.randomUUID().toString();
            String job = """
                {"type": "send", "id": "%s", "to": "alice", "message": {"text": "Hello from Java"}}""".formatted(id);

            // A queue of our own for outcomes, before the job, or its event may come first. A real program reads the
            // event's "subject" with its JSON library; the id is a UUID, so looking for it does here.
            String queue = channel.queueDeclare().getQueue();
            channel.queueBind(queue, namespace + ".events", "send.*");
            CompletableFuture<String> outcome = new CompletableFuture<>();
            channel.basicConsume(queue, true, (tag, delivery) -> {
                String event = new String(delivery.getBody(), StandardCharsets.UTF_8);
                if (event.contains("\"subject\":\"" + id + "\"")) {
                    outcome.complete(event);
                }
            }, tag -> outcome.completeExceptionally(new IllegalStateException("the queue is gone")));

            AMQP.BasicProperties properties = MessageProperties.PERSISTENT_BASIC.builder()
                .contentType("application/json").messageId(id).build();
            boolean mandatory = true;
            channel.basicPublish(namespace + ".jobs", "high", mandatory, properties, job.getBytes(StandardCharsets.UTF_8));
            channel.waitForConfirmsOrDie(30_000);
            if (returned.get() != null) {
                throw new IllegalStateException("no queue took the job: " + returned.get());
            }
            System.out.println("published " + id);

            String event = outcome.get(30, TimeUnit.SECONDS);
            System.out.println(event);
            System.exit(event.contains("\"type\":\"im.message.sent\"") ? 0 : 1);
        }
    }
}
