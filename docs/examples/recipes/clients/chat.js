import { connect } from "fast-channels";

const socket = connect("/ws/chat", { json: true });

socket.on("message", ({ data, replayed }) => {
  const line = document.createElement("li");
  line.textContent = replayed ? `${data.text} (while you were away)` : data.text;
  document.querySelector("#lines").append(line);
});

socket.on("resumed", ({ recovered }) => {
  // The client was away for longer than the history covers.
  if (recovered === false) location.reload();
});

socket.on("state", ({ state }) => {
  document.querySelector("#state").textContent = state;
});

document.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = event.target.elements.text;
  // Without a connection, a frame waits for the next one.
  if (socket.send({ text: field.value })) field.value = "";
});
