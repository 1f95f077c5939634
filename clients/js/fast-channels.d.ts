/**
 * A WebSocket that comes back, and is sent what it has missed: the client's side of
 * docs/protocol.md. For browsers and Node 22 or newer, without dependencies.
 */
/** The sub-protocol that the client offers. */
export declare const SUBPROTOCOL = "fast-channels.resume.v1";
export type State = "connecting" | "open" | "waiting" | "closed";
export type StateChange = {
    state: State;
    /**
     * Of the close before "waiting" and "closed"; 1006 if there was none.
     */
    code?: number;
    reason?: string;
    /**
     * Milliseconds that "waiting" will last.
     */
    pause?: number;
};
export type Message = {
    /**
     * Text, a value with `json`, or a Uint8Array.
     */
    data: any;
    /**
     * null, like `position`, for what is not sent again if it is missed.
     */
    group: string | null;
    position: string | null;
    /**
     * It was missed, and is made up for.
     */
    replayed: boolean;
};
export type Resumed = {
    group: string;
    /**
     * false: something is lost. null: it is new to this client.
     */
    recovered: boolean | null;
    /**
     * How many messages come next.
     */
    missed: number;
    position: string;
};
export type Events = {
    state: StateChange;
    message: Message;
    resumed: Resumed;
    /**
     * A frame or a store that cannot be read or written, or what `protocols` threw.
     */
    error: Error;
};
export type Options = {
    /**
     * Frames are JSON, in both directions.
     */
    json?: boolean;
    /**
     * Offer the sub-protocol.
     */
    resume?: boolean;
    /**
     * Sub-protocols to offer beside it; a function is asked at each attempt.
     */
    protocols?: string[] | (() => string[]);
    /**
     * The first wait is a random part of this, and each may be twice as long
     */
    retryBase?: number;
    /**
     * up to this.
     */
    retryCap?: number;
    openTimeout?: number;
    /**
     * Ask whether the server is there when nothing was heard for this long,
     */
    heartbeatInterval?: number;
    /**
     * and give it so long to answer.
     */
    heartbeatTimeout?: number;
    /**
     * Frames that wait for a connection.
     */
    bufferSize?: number;
    /**
     * Which frame is lost when there are more.
     */
    overflow?: "drop_oldest" | "drop_newest";
    /**
     * What another socket's `places` were.
     */
    places?: Record<string, string>;
    /**
     * Keeps places over a reload, like sessionStorage.
     */
    store?: Pick<Storage, "getItem" | "setItem">;
    /**
     * By default made of the URL.
     */
    storeKey?: string;
};
/** @param {string | URL} url @param {Options} [options] */
export declare function connect(url: string | URL, options?: Options): ResumingSocket;
/**
 * Connects at once, and again whenever the connection is lost, until `close()` is called or
 * the server says that it should not.
 *
 * What is sent while there is no connection waits for the next one. What was handed to a
 * connection that died then may be lost, and is not sent again: a message that must arrive
 * needs an answer from the application.
 */
export declare class ResumingSocket {
    #private;
    /** Where to connect; a change holds for the next attempt. @type {URL} */
    url: URL;
    /** @type {State} */
    state: State;
    /** Whether this connection speaks the sub-protocol, so that what it misses will be sent again. */
    resumable: boolean;
    /** Frames that `overflow` and `close()` have cost. */
    dropped: number;
    /** @param {string | URL} url @param {Options} [options] */
    constructor(url: string | URL, options?: Options);
    /** Up to where each group was received. Given to another socket as `places`, it goes on there. */
    get places(): {
        [k: string]: string;
    };
    /** Frames that wait for a connection. */
    get buffered(): number;
    /**
     * Call a handler for each event from now on; the function that is returned ends that.
     * An error of a handler is reported, and changes nothing for the socket or other handlers.
     *
     * @template {keyof Events} E
     * @param {E} event
     * @param {(detail: Events[E]) => void} handler
     * @returns {() => void}
     */
    on<E extends keyof Events>(event: E, handler: (detail: Events[E]) => void): () => void;
    /**
     * Send text, bytes (an ArrayBuffer or a view of one), or with `json` any value that JSON has.
     *
     * Returns whether it was handed to a connection or waits for one; false means that it is lost.
     *
     * @param {any} data
     * @returns {boolean}
     */
    send(data: any): boolean;
    /** Connect again after "closed", or now instead of waiting; but not before the server allows it. */
    connect(): void;
    /** Close with 1000, for good. What waits for a connection is dropped. */
    close(reason?: string): void;
}
