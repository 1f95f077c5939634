import { connect } from "fast-channels";

const socket = connect("/ws/chat", { json: true });

socket.on("message", ({ data, replayed }) => {
  const line = document.createElement("li");
  line.textContent = replayed ? `${data.text} (while you were away)` : data.text;
  document.querySelector("#lines").append(line);
});

socket.on("resumed", ({ recovered }) => {
  // Longer away than the history reaches back.
  if (recovered === false) location.reload();
});

socket.on("state", ({ state }) => {
  document.querySelector("#state").textContent = state;
});

document.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = event.target.elements.text;
  // What is sent while there is no connection waits for the next one.
  if (socket.send({ text: field.value })) field.value = "";
});
