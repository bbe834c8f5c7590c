// Publishes one job and waits for its outcome: exit code 0 if the message was sent.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	namespace := env("IM_DISPATCHER_NAMESPACE", "im")
	connection, err := amqp.Dial(env("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f"))
	must(err)
	defer connection.Close()
	channel, err := connection.Channel()
	must(err)
	must(channel.Confirm(false))
	returns := channel.NotifyReturn(make(chan amqp.Return, 1))

	// A queue of our own for outcomes, before the job, or its event may come first.
	queue, err := channel.QueueDeclare("", false, true, true, false, nil)
	must(err)
	must(channel.QueueBind(queue.Name, "send.*", namespace+".events", false, nil))
	events, err := channel.Consume(queue.Name, "", true, true, false, false, nil)
	must(err)

	// The id is the idempotency key: choose it once, and publish the same job again whenever in doubt.
	random := make([]byte, 16)
	_, err = rand.Read(random)
	must(err)
	id := fmt.Sprintf("go-%x", random)
	job, err := json.Marshal(map[string]any{
		"type": "send", "id": id, "to": "alice", "message": map[string]string{"text": "Hello from Go"},
	})
	must(err)

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	const mandatory, immediate = true, false
	confirm, err := channel.PublishWithDeferredConfirmWithContext(ctx, namespace+".jobs", "high", mandatory, immediate,
		amqp.Publishing{ContentType: "application/json", DeliveryMode: amqp.Persistent, MessageId: id, Body: job})
	must(err)
	if !confirm.Wait() {
		log.Fatal("the broker refused the job")
	}
	// What no queue takes is confirmed too, and returned just before.
	select {
	case returned := <-returns:
		log.Fatalf("no queue took the job: %s", returned.ReplyText)
	default:
	}
	fmt.Println("published", id)

	for {
		select {
		case delivery, open := <-events:
			if !open {
				log.Fatal("the connection is gone")
			}
			var event struct{ Type, Subject string }
			must(json.Unmarshal(delivery.Body, &event))
			if event.Subject != id {
				continue
			}
			fmt.Println(string(delivery.Body))
			if event.Type != "im.message.sent" {
				os.Exit(1)
			}
			return
		case <-ctx.Done():
			log.Fatal("no outcome within 30 s: is a worker running?")
		}
	}
}
