// A chat over WebSockets, with Debian's node-ws. The server hands each message to everybody. A client sends its next message when everybody's last one has come,
// and checks that none is missing, twice, or out of order.
'use strict';
const WebSocket = require('/usr/share/nodejs/ws');
const [, , role, host, port, name, size] = process.argv;

function fail(...why) {
  console.log('FAIL', ...why);
  process.exit(1);
}

if (role === 'server') {
  const server = new WebSocket.Server({ host, port: Number(port) });
  server.on('connection', (from) => {
    from.on('message', (data) => {
      for (const to of server.clients) to.send(data.toString());
    });
  });
} else {
  const clients = Number(size);
  const heard = {}; // the number of everybody's last message
  let said = 0;
  const chat = new WebSocket(`ws://${host}:${port}/`);
  const say = () => chat.send(JSON.stringify({ name, n: ++said, text: 'x'.repeat(said % 5000) }));
  chat.on('close', (code) => fail('the connection has ended:', code));
  chat.on('error', (err) => fail(err));
  chat.on('open', () => {
    // Nobody speaks before all are there: what is said then does not come to those who are not.
    const hello = setInterval(() => chat.send(JSON.stringify({ name, n: 0 })), 50);
    chat.on('message', (data) => {
      const m = JSON.parse(data);
      if (m.n === 0) {
        if (!(m.name in heard)) heard[m.name] = 0;
        if (Object.keys(heard).length === clients && said === 0) say();
        return;
      }
      clearInterval(hello);
      if (m.n !== (heard[m.name] || 0) + 1) fail('message', m.n, 'of', m.name, 'comes after', heard[m.name]);
      if (m.text.length !== m.n % 5000) fail('message', m.n, 'of', m.name, 'has', m.text.length, 'letters');
      heard[m.name] = m.n;
      const all = Object.values(heard);
      if (all.length === clients && all.every((n) => n >= said)) {
        if (said % 20 === 0) console.log('progress', said);
        setTimeout(say, 2);
      }
    });
  });
}
