defmodule Brain.Peers do
  @moduledoc """
  The other Brains that beat, from which the emitter of each tenant follows. Pure; `clock` is that
  of `Brain.Incarnations`, which stands still while this Brain is cut off.
  """

  @silent_ms 3_000
  @most 64

  @type t :: %{binary => %{incarnation: integer, uptime: integer, at: integer, warm?: boolean}}

  @spec new() :: t
  def new, do: %{}

  @doc "A beat of another Brain."
  @spec beat(t, integer, binary, integer, integer, boolean, boolean) :: t
  def beat(peers, clock, id, incarnation, uptime, warm?, goodbye?) do
    case peers do
      # Of two with one id the newer counts; it is an operator's mistake, seen in `arq status`.
      %{^id => %{incarnation: newer}} when newer > incarnation ->
        peers

      %{^id => %{incarnation: ^incarnation, uptime: last}} when uptime <= last ->
        peers

      _ when goodbye? ->
        Map.delete(peers, id)

      _ when map_size(peers) >= @most and not is_map_key(peers, id) ->
        peers

      _ ->
        beat = %{incarnation: incarnation, uptime: uptime, at: clock, warm?: warm?}
        Map.put(peers, id, beat)
    end
  end

  @doc "Forgets those that are silent."
  @spec tick(t, integer) :: t
  def tick(peers, clock), do: Map.filter(peers, fn {_, p} -> clock - p.at < @silent_ms end)

  @doc "The ids of the warm ones, in order."
  @spec warm(t) :: [binary]
  def warm(peers), do: for({id, %{warm?: true}} <- peers, do: id) |> Enum.sort()
end
