defmodule Brain.Link.Terms do
  @moduledoc """
  The terms of the pipe, as brain/README.md lists them. What does not have their shape is refused
  here, before any of it reaches a table: `[:safe]` alone lets any shape of known atoms through.
  """

  alias Brain.Roster

  # Named so that they exist when the first frame is read: `[:safe]` makes no atoms.
  @atoms [
    :hello,
    :batch,
    :credit,
    :pong,
    :scraped,
    :spine,
    :control,
    :brain,
    :up,
    :down,
    :changes,
    :active,
    :page,
    :query,
    :beat,
    :digests,
    :dirty,
    :counted,
    :slow_consumer,
    :malformed,
    :oversized,
    :clock_skew,
    :dropped,
    :put,
    :gone,
    :id,
    :incarnation,
    :version,
    :listen,
    :shards,
    :tick_ms,
    :count_tick_ms,
    :full_limit,
    :state_max_bytes,
    :sessions_listed,
    :down_after_ms,
    :forget_after_ms,
    :digest_ms,
    :repairs,
    :traces,
    :log_level,
    :log_format,
    :json,
    :pretty,
    :debug,
    :info,
    :warn,
    :warning,
    :error,
    :trace,
    true,
    false
  ]

  @doc "The atoms that may come."
  @spec atoms() :: [atom]
  def atoms, do: @atoms

  @doc "Reads a term and refuses atoms that are not known."
  @spec decode(binary) :: {:ok, term} | :error
  def decode(bytes) do
    {:ok, :erlang.binary_to_term(bytes, [:safe])}
  rescue
    ArgumentError -> :error
  end

  @spec encode(term) :: binary
  def encode(term), do: :erlang.term_to_binary(term, minor_version: 2)

  @doc "The changes of a blob, if they are `count` and well formed."
  @spec changes(binary, term) :: {:ok, [Roster.change()]} | :error
  def changes(blob, count), do: list(blob, &change?/1, count)

  @doc "The entries of a page."
  @spec entries(binary) :: {:ok, [Roster.entry()]} | :error
  def entries(blob), do: list(blob, &entry?/1, :any)

  @doc "The marks of active sessions."
  @spec marks(binary) :: {:ok, [{binary, binary, binary, integer}]} | :error
  def marks(blob), do: list(blob, &mark?/1, :any)

  defp list(blob, ok?, count) do
    with true <- is_binary(blob),
         {:ok, list} when is_list(list) <- decode(blob),
         # A tail that is no list would end `length/1` and the shard with it.
         {:ok, n} <- all(list, ok?, 0),
         true <- count in [:any, n] do
      {:ok, list}
    else
      _ -> :error
    end
  end

  defp all([], _, n), do: {:ok, n}
  defp all([x | rest], ok?, n), do: if(ok?.(x), do: all(rest, ok?, n + 1), else: :error)
  defp all(_, _, _), do: :error

  defp change?({:put, entry}), do: entry?(entry)

  defp change?({:gone, room, user, session}) do
    is_binary(room) and is_binary(user) and is_binary(session)
  end

  defp change?(_), do: false

  defp entry?({room, user, session, seq, meta, joined, active, hash}) do
    is_binary(room) and is_binary(user) and is_binary(session) and is_binary(meta) and
      is_integer(seq) and is_integer(joined) and is_integer(active) and is_integer(hash) and
      hash >= 0 and seq > 0
  end

  defp entry?(_), do: false

  defp mark?({room, user, session, at}) do
    is_binary(room) and is_binary(user) and is_binary(session) and is_integer(at)
  end

  defp mark?(_), do: false

  @doc "Whether an event has the shape that the page gives it; blobs are looked at by their owner."
  @spec event?(term) :: boolean
  def event?({:spine, which, how}), do: which in [:control, :brain] and how in [:up, :down]

  def event?({:changes, account, shield, epoch, first, count, traces, blob}) do
    is_binary(account) and is_binary(shield) and number?(epoch) and number?(first) and
      number?(count) and traces?(traces) and is_binary(blob)
  end

  def event?({:active, account, shield, epoch, traces, blob}) do
    is_binary(account) and is_binary(shield) and number?(epoch) and traces?(traces) and
      is_binary(blob)
  end

  def event?({:page, account, shield, epoch, seq, request, number, last?, blob}) do
    is_binary(account) and is_binary(shield) and number?(epoch) and number?(seq) and
      number?(request) and number?(number) and is_boolean(last?) and is_binary(blob)
  end

  def event?({:query, account, shield, epoch, id, room, count_only?, after_seq}) do
    is_binary(account) and is_binary(shield) and number?(epoch) and number?(id) and
      is_binary(room) and is_boolean(count_only?) and number?(after_seq)
  end

  def event?({:beat, shield, epoch, uptime, goodbye?, root, tenants, members, recent}) do
    is_binary(shield) and number?(epoch) and number?(uptime) and is_boolean(goodbye?) and
      number?(root) and number?(tenants) and number?(members) and versions?(recent)
  end

  def event?({:digests, shield, epoch, number, last?, root, list}) do
    is_binary(shield) and number?(epoch) and number?(number) and is_boolean(last?) and
      number?(root) and versions?(list)
  end

  def event?({:brain, id, incarnation, uptime, warm?, goodbye?}) do
    is_binary(id) and number?(incarnation) and number?(uptime) and is_boolean(warm?) and
      is_boolean(goodbye?)
  end

  def event?({:dirty, list}), do: match?({:ok, _}, all(list, &dirty?/1, 0))
  def event?({:counted, kind, n}), do: is_atom(kind) and number?(n)
  def event?(_), do: false

  defp traces?(list), do: match?({:ok, _}, all(list, &trace?/1, 0))

  defp trace?({room, <<_::128>>, <<_::64>>}), do: is_binary(room)
  defp trace?(_), do: false

  defp versions?(list), do: match?({:ok, _}, all(list, &version?/1, 0))

  defp version?({account, seq, count, digest}) do
    is_binary(account) and number?(seq) and number?(count) and number?(digest)
  end

  defp version?(_), do: false

  defp dirty?({account, shield}), do: is_binary(account) and is_binary(shield)
  defp dirty?(_), do: false

  defp number?(n), do: is_integer(n) and n >= 0
end
