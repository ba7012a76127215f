// Asks one server what run.sh compares. Prints a line for each answer, keys and tokens named.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
func pub(k nkeys.KeyPair) string { return must(k.PublicKey()) }

func user(acc, ukp nkeys.KeyPair, f func(*jwt.UserClaims)) nats.Option {
	uc := jwt.NewUserClaims(pub(ukp))
	if f != nil {
		f(uc)
	}
	token := must(uc.Encode(acc))
	return nats.UserJWT(func() (string, error) { return token, nil }, func(n []byte) ([]byte, error) { return ukp.Sign(n) })
}

func freePort() string {
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	return fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
}

func main() {
	bin := os.Args[1]
	port := freePort()
	dir := must(os.MkdirTemp("", "claims"))
	defer os.RemoveAll(dir)
	okp := must(nkeys.CreateOperator())
	sys := must(nkeys.CreateAccount())
	acc := must(nkeys.CreateAccount())
	acc2 := must(nkeys.CreateAccount())
	oc := jwt.NewOperatorClaims(pub(okp))
	oc.SystemAccount = pub(sys)
	ojwt := must(oc.Encode(okp))
	sc := jwt.NewAccountClaims(pub(sys))
	sjwt := must(sc.Encode(okp))
	conf := fmt.Sprintf("listen: 127.0.0.1:%s\noperator: %s\nsystem_account: %s\nresolver: {type: full, dir: %q, allow_delete: true, limit: 3}\nresolver_preload: {%s: %s}\n", port, ojwt, pub(sys), dir+"/jwt", pub(sys), sjwt)
	os.WriteFile(dir+"/c.conf", []byte(conf), 0644)
	cmd := exec.Command(bin, "-c", dir+"/c.conf")
	log := must(os.Create(dir + "/log"))
	cmd.Stderr, cmd.Stdout = log, log
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	defer cmd.Process.Kill()
	url := "nats://127.0.0.1:" + port
	for i := 0; i < 100; i++ {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			c.Close()
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	names := map[string]string{pub(okp): "OPERATOR", pub(sys): "SYS", pub(acc): "ACC", pub(acc2): "ACC2"}
	nc, err := nats.Connect(url, user(sys, must(nkeys.CreateUser()), nil))
	if err != nil {
		fmt.Println("cannot connect", err, string(must(os.ReadFile(dir+"/log"))))
		return
	}
	re := regexp.MustCompile(`eyJ[\w.-]+`)
	show := func(what string, b []byte) {
		text := string(b)
		var m map[string]json.RawMessage
		if json.Unmarshal(b, &m) == nil {
			order := "server first"
			if i, j := strings.Index(text, `"server"`), max(strings.Index(text, `"data"`), strings.Index(text, `"error"`)); i > j {
				order = "server last"
			}
			delete(m, "server")
			text = string(must(json.Marshal(m))) + " " + order
		}
		for k, v := range names {
			text = strings.ReplaceAll(text, k, v)
		}
		fmt.Printf("%s: %s\n", what, re.ReplaceAllString(text, "TOKEN"))
	}
	ask := func(what, subj string, payload []byte) {
		m, err := nc.Request(subj, payload, time.Second)
		if err != nil {
			fmt.Printf("%s: %v\n", what, err)
			return
		}
		show(what, m.Data)
	}
	can := func(what string, opts ...nats.Option) {
		c, err := nats.Connect(url, opts...)
		if err != nil {
			fmt.Printf("login %s: %v\n", what, err)
			return
		}
		fmt.Printf("login %s: ok\n", what)
		c.Close()
	}
	ukp := must(nkeys.CreateUser())
	can("before push", user(acc, ukp, nil))
	ac := jwt.NewAccountClaims(pub(acc))
	ac.Name = "acc"
	ajwt := must(ac.Encode(okp))
	ask("push", "$SYS.REQ.CLAIMS.UPDATE", []byte(ajwt))
	can("after push", user(acc, ukp, nil))
	ask("push by account subject", "$SYS.REQ.ACCOUNT."+pub(acc)+".CLAIMS.UPDATE", []byte(ajwt))
	ask("push by old subject", "$SYS.ACCOUNT."+pub(acc)+".CLAIMS.UPDATE", []byte(ajwt))
	ask("push under a wrong name", "$SYS.REQ.ACCOUNT."+pub(acc2)+".CLAIMS.UPDATE", []byte(ajwt))
	ask("push nothing", "$SYS.REQ.CLAIMS.UPDATE", nil)
	ask("push rubbish", "$SYS.REQ.CLAIMS.UPDATE", []byte("rubbish"))
	ask("push a user", "$SYS.REQ.CLAIMS.UPDATE", []byte(must(jwt.NewUserClaims(pub(ukp)).Encode(acc))))
	ask("lookup", "$SYS.REQ.ACCOUNT."+pub(acc)+".CLAIMS.LOOKUP", nil)
	ask("lookup unknown", "$SYS.REQ.ACCOUNT."+pub(acc2)+".CLAIMS.LOOKUP", nil)
	a2 := jwt.NewAccountClaims(pub(acc2))
	ask("push second", "$SYS.REQ.CLAIMS.UPDATE", []byte(must(a2.Encode(okp))))
	third := must(nkeys.CreateAccount())
	names[pub(third)] = "THIRD"
	ask("push beyond the limit", "$SYS.REQ.CLAIMS.UPDATE", []byte(must(jwt.NewAccountClaims(pub(third)).Encode(okp))))
	bad := jwt.NewAccountClaims(pub(acc2))
	bad.Mappings = map[jwt.Subject][]jwt.WeightedMapping{"a": {{Subject: "b", Weight: 80}, {Subject: "c", Weight: 80}}}
	ask("push bad mappings", "$SYS.REQ.CLAIMS.UPDATE", []byte(must(bad.Encode(okp))))
	m, err := nc.Request("$SYS.REQ.CLAIMS.LIST", nil, time.Second)
	if err == nil {
		var l struct{ Data []string }
		json.Unmarshal(m.Data, &l)
		fmt.Println("list", len(l.Data), strings.Index(string(m.Data), `"server"`) > strings.Index(string(m.Data), `"data"`))
	} else {
		fmt.Println("list", err)
	}
	// pack
	inbox := nats.NewInbox()
	sub := must(nc.SubscribeSync(inbox))
	nc.PublishRequest("$SYS.REQ.CLAIMS.PACK", inbox, []byte("x"))
	for {
		m, err := sub.NextMsg(time.Second)
		if err != nil {
			fmt.Println("pack", err)
			break
		}
		if len(m.Data) == 0 {
			fmt.Println("pack: end")
			break
		}
		fmt.Println("pack: a line", strings.Count(string(m.Data), "|"))
	}
	can("second account", user(acc2, ukp, nil))
	can("forged", user(must(nkeys.CreateAccount()), ukp, nil))
	can("expired", user(acc, ukp, func(u *jwt.UserClaims) { u.Expires = time.Now().Add(-time.Minute).Unix() }))
	can("elsewhere", user(acc, ukp, func(u *jwt.UserClaims) { u.Src.Add("10.0.0.0/8") }))
	can("websocket only", user(acc, ukp, func(u *jwt.UserClaims) { u.AllowedConnectionTypes.Add("WEBSOCKET") }))
	other := must(nkeys.CreateUser())
	uc := jwt.NewUserClaims(pub(ukp))
	tok := must(uc.Encode(acc))
	can("other key", nats.UserJWT(func() (string, error) { return tok, nil }, func(n []byte) ([]byte, error) { return other.Sign(n) }))
	can("replayed nonce", nats.UserJWT(func() (string, error) { return tok, nil }, func(n []byte) ([]byte, error) { return ukp.Sign([]byte("AAAAAAAAAAA")) }))
	uc.BearerToken = true
	btok := must(uc.Encode(acc))
	can("bearer", nats.UserJWT(func() (string, error) { return btok, nil }, func(n []byte) ([]byte, error) { return nil, nil }))
	// live: revoked, expired user, scoped
	errs := make(chan error, 8)
	live, err := nats.Connect(url, user(acc, ukp, nil), nats.NoReconnect(), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, e error) { errs <- e }), nats.ClosedHandler(func(c *nats.Conn) { errs <- fmt.Errorf("closed: %v", c.LastError()) }))
	if err != nil {
		fmt.Println("live", err)
	}
	_ = live
	ac.RevokeAt(pub(ukp), time.Now().Add(time.Minute))
	ask("push revocation", "$SYS.REQ.CLAIMS.UPDATE", []byte(must(ac.Encode(okp))))
	for i := 0; i < 2; i++ {
		select {
		case e := <-errs:
			fmt.Println("live:", e)
		case <-time.After(2 * time.Second):
			fmt.Println("live: nothing")
		}
	}
	can("revoked", user(acc, ukp, nil))
	u2 := must(nkeys.CreateUser())
	ex, err := nats.Connect(url, user(acc, u2, func(u *jwt.UserClaims) { u.Expires = time.Now().Add(2 * time.Second).Unix() }), nats.NoReconnect(), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, e error) { errs <- e }), nats.ClosedHandler(func(c *nats.Conn) { errs <- fmt.Errorf("closed: %v", c.LastError()) }))
	_ = ex
	for i := 0; i < 2; i++ {
		select {
		case e := <-errs:
			fmt.Println("expiring:", e)
		case <-time.After(4 * time.Second):
			fmt.Println("expiring: nothing")
		}
	}
	// scoped signing key with templates
	skp := must(nkeys.CreateAccount())
	scope := jwt.NewUserScope()
	scope.Key = pub(skp)
	scope.Template.Pub.Allow.Add("app.{{name()}}.{{tag(team)}}.>", "_INBOX.>")
	scope.Template.Sub.Allow.Add("app.{{subject()}}", "_INBOX.>")
	ac.SigningKeys.AddScopedSigner(scope)
	ask("push scope", "$SYS.REQ.CLAIMS.UPDATE", []byte(must(ac.Encode(okp))))
	suc := jwt.NewUserClaims(pub(u2))
	suc.Name = "ann"
	suc.Tags.Add("team:red")
	suc.IssuerAccount = pub(acc)
	suc.SetScoped(true)
	stok := must(suc.Encode(skp))
	sc1, err := nats.Connect(url, nats.UserJWT(func() (string, error) { return stok, nil }, func(n []byte) ([]byte, error) { return u2.Sign(n) }), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, e error) { errs <- e }))
	if err != nil {
		fmt.Println("scoped", err)
	} else {
		sc1.Publish("app.ann.red.x", nil)
		sc1.Publish("app.ann.blue.x", nil)
		sc1.Flush()
		select {
		case e := <-errs:
			fmt.Println("scoped:", e)
		case <-time.After(time.Second):
			fmt.Println("scoped: nothing")
		}
	}
	// delete
	gc := jwt.NewGenericClaims(pub(okp))
	gc.Data["accounts"] = []string{pub(acc2)}
	ask("delete", "$SYS.REQ.CLAIMS.DELETE", []byte(must(gc.Encode(okp))))
	ask("delete again", "$SYS.REQ.CLAIMS.DELETE", []byte(must(gc.Encode(okp))))
	gc.Data["accounts"] = []string{pub(sys)}
	ask("delete system", "$SYS.REQ.CLAIMS.DELETE", []byte(must(gc.Encode(okp))))
	gc.Data["accounts"] = "x"
	ask("delete malformed", "$SYS.REQ.CLAIMS.DELETE", []byte(must(gc.Encode(okp))))
	o2 := must(nkeys.CreateOperator())
	gc2 := jwt.NewGenericClaims(pub(o2))
	gc2.Data["accounts"] = []string{pub(acc)}
	names[pub(o2)] = "OTHER"
	ask("delete by other", "$SYS.REQ.CLAIMS.DELETE", []byte(must(gc2.Encode(o2))))
	can("deleted", user(acc2, u2, nil))
}
