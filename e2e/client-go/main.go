// One client of the chaos workload, by the official Go library: the same roles, payloads and log
// lines as e2e/src/chaos/workload.rs, which says what they mean.
//
//	client-go NAME URL LOG-FOLDER
//
// Runs until LOG-FOLDER/stop exists.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	service        = "serve.echo"
	publishEvery   = 40 * time.Millisecond
	requestEvery   = 100 * time.Millisecond
	requestTimeout = 5 * time.Second
	largeEvery     = 100
	largeBytes     = 20000
	pendingMax     = 1 << 20
)

type log struct {
	mutex sync.Mutex
	file  *os.File
	// Lines that could not be written since the last one that could.
	unwritten uint64
}

func (l *log) note(format string, words ...any) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	now := time.Now().UnixMicro()
	lines := fmt.Sprintf("%d %s\n", now, fmt.Sprintf(format, words...))
	if l.unwritten > 0 {
		lines = fmt.Sprintf("\n%d unwritten %d\n%s", now, l.unwritten, lines)
	}
	if _, err := l.file.WriteString(lines); err != nil {
		l.unwritten++
	} else {
		l.unwritten = 0
	}
}

func payload(publisher string, number uint64) []byte {
	wanted := 64
	if number%largeEvery == largeEvery-1 {
		wanted = largeBytes
	}
	head := fmt.Sprintf("%s %d %d ", publisher, number, wanted)
	return []byte(head + strings.Repeat(".", wanted-len(head)))
}

func read(data []byte) (string, uint64) {
	words := strings.SplitN(string(data), " ", 4)
	if len(words) == 4 {
		number, err := strconv.ParseUint(words[1], 10, 64)
		length, errLength := strconv.Atoi(words[2])
		if err == nil && errLength == nil && length == len(data) {
			return words[0], number
		}
	}
	return "damaged", 0
}

func main() {
	name, url, folder := os.Args[1], os.Args[2], os.Args[3]
	// A client that was restarted counts from 0 again: it is another one.
	name = fmt.Sprintf("%s-%d", name, time.Now().Unix())
	file, err := os.OpenFile(filepath.Join(folder, name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	check(err)
	l := &log{file: file}
	connected := func(c *nats.Conn) { l.note("connected %s %s", name, c.ConnectedServerName()) }
	c, err := nats.Connect(url, nats.Name(name), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(100*time.Millisecond), nats.Timeout(2*time.Second), nats.PingInterval(2*time.Second),
		nats.ConnectHandler(connected), nats.ReconnectHandler(connected),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { l.note("disconnected %s", name) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { fmt.Println(err) }))
	check(err)
	for !c.IsConnected() {
		time.Sleep(10 * time.Millisecond)
	}
	receive := func(filter, queue string) {
		s, err := c.QueueSubscribe(filter, queue, func(m *nats.Msg) {
			publisher, number := read(m.Data)
			l.note("received %s %s %s %s %d", name, filter, m.Subject, publisher, number)
		})
		check(err)
		check(s.SetPendingLimits(pendingMax, -1))
		check(c.Flush())
		l.note("subscribed %s %s %s", name, filter, queue)
	}
	receive("fan.>", "")
	receive("work.>", "workers")
	_, err = c.QueueSubscribe(service, "servers", func(m *nats.Msg) { _ = m.Respond(m.Data) })
	check(err)
	check(c.Flush())
	l.note("serves %s %s", name, service)
	time.Sleep(3 * time.Second)

	stop := make(chan struct{})
	var publishers, requests sync.WaitGroup
	for _, head := range []string{"fan", "work"} {
		subject := head + "." + name
		publishers.Go(func() {
			for number := uint64(0); ; number++ {
				select {
				case <-stop:
					return
				case <-time.After(publishEvery):
				}
				l.note("published %s %s %d", name, subject, number)
				if err := c.Publish(subject, payload(name, number)); err != nil {
					fmt.Println(err)
				}
			}
		})
	}
	publishers.Go(func() {
		for number := uint64(0); ; number++ {
			select {
			case <-stop:
				return
			case <-time.After(requestEvery):
			}
			l.note("requested %s %s %d", name, service, number)
			requests.Go(func() { ask(c, l, name, number) })
		}
	})
	for {
		if _, err := os.Stat(filepath.Join(folder, "stop")); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	close(stop)
	publishers.Wait()
	requests.Wait()
	time.Sleep(5 * time.Second)
	l.note("closed %s", name)
	if l.unwritten > 0 {
		fmt.Fprintln(os.Stderr, l.unwritten, "notes could not be written")
		os.Exit(1)
	}
}

// Every other request by an inbox of its own, which also sees a second answer.
func ask(c *nats.Conn, l *log, name string, number uint64) {
	data := []byte(strconv.FormatUint(number, 10))
	answers := 1
	var err error
	if number%2 == 0 {
		_, err = c.Request(service, data, requestTimeout)
	} else {
		inbox := c.NewRespInbox()
		var s *nats.Subscription
		if s, err = c.SubscribeSync(inbox); err == nil {
			var first *nats.Msg
			if err = c.PublishRequest(service, inbox, data); err == nil {
				first, err = s.NextMsg(requestTimeout)
			}
			if err == nil && len(first.Data) == 0 && first.Header.Get("Status") == "503" {
				err = nats.ErrNoResponders
			}
			if err == nil {
				if _, again := s.NextMsg(200 * time.Millisecond); again == nil {
					answers = 2
				}
			}
			_ = s.Unsubscribe()
		}
	}
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		l.note("refused %s %d", name, number)
	case err != nil:
		l.note("unanswered %s %d", name, number)
	default:
		for range answers {
			l.note("answered %s %d", name, number)
		}
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
