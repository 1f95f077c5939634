// Correct and incorrect uses in TypeScript. `make check` compiles this file; it never runs.
import { connect, ResumingSocket, SUBPROTOCOL } from "../fast-channels.js";
import type { Message, Options, Resumed, SocketState } from "../fast-channels.js";

const options: Options = { json: true, store: sessionStorage, overflow: "drop_oldest", retryCap: 5_000 };
const socket: ResumingSocket = connect("/ws/chat", options);
connect(new URL("wss://example.org/ws"), { protocols: () => ["bearer", "token"] });

const off: () => void = socket.on("message", ({ data, group, position, replayed }: Message) => {
  const place: string | null = position ?? group;
  console.log(data, place, replayed satisfies boolean);
});
off();
socket.on("resumed", (resumed: Resumed) => console.log(resumed.group, resumed.recovered ?? "new", resumed.missed));
socket.on("state", ({ state, pause = 0 }) => console.log(state satisfies SocketState, pause / 1000));
socket.on("error", (error) => console.error(error.message));

const waits: boolean = socket.send({ text: "hello" });
const places: Record<string, string> = socket.places;
connect(socket.url, { places });
console.log(waits, socket.dropped + socket.buffered, socket.resumable, SUBPROTOCOL);
socket.close("bye");

// @ts-expect-error there is no such event
socket.on("messages", () => {});
// @ts-expect-error there is no such policy
connect("/ws", { overflow: "drop" });
// @ts-expect-error a time is a number
connect("/ws", { retryCap: "5 s" });
