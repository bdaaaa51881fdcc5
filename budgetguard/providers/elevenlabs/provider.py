"""ElevenLabs."""

from typing import TYPE_CHECKING, Final

from budgetguard._core.amounts import Amount
from budgetguard._core.balance import Balance
from budgetguard._core.clean_tracebacks import clean_traceback
from budgetguard.providers._account import check_flag
from budgetguard.providers.elevenlabs.billing import (
    CHARACTER,
    SOUND_SECOND,
    ElevenLabsBilling,
    speech_cost,
)
from budgetguard.providers.http_provider import HTTPProvider

if TYPE_CHECKING:
    from decimal import Decimal

    import httpx


class ElevenLabs(HTTPProvider):
    """An account at ElevenLabs, counted in its credits, which older fields of its API call characters.

    The key is `api_key`, or else ELEVENLABS_API_KEY from the environment; it needs the permission
    `user_read`. Requests go to `base_url`, or else to ELEVENLABS_BASE_URL, or else to
    https://api.elevenlabs.io. The other arguments and the errors are those of `HTTPProvider`.

    The balance is what is left of the period's credits, and the overage that the workspace allows beyond them,
    which it pays for (usage-based billing): with "unlimited", the balance is unlimited. With `overage=False`,
    only the period's own credits count. A quota of the key itself is not in the balance; when it is reached,
    ElevenLabs refuses, and only guards with this key are refused from then on.

    CHARACTER is the price of a character of text, in credits, with most models; `speech_cost(characters, model)`
    knows the exceptions. SOUND_SECOND is the price of a second of a sound effect (elevenlabs.io/docs and help
    pages, 2026-11). Voices of the Voice Library can cost a multiple. `prices` lists the requests that a
    transport guards. ElevenLabs does not document its reporting delay (`lag`, s); `linger` (s) is how long its
    own client waits for a reply.
    """

    CHARACTER: Final = CHARACTER
    SOUND_SECOND: Final = SOUND_SECOND

    speech_cost = staticmethod(speech_cost)
    billing = ElevenLabsBilling()

    name = "ElevenLabs"
    variable = "ELEVENLABS_API_KEY"
    url_variable = "ELEVENLABS_BASE_URL"
    key_header = "xi-api-key"
    key_prefix = ""
    top_up_url = "https://elevenlabs.io/app/subscription"
    linger = 240.0

    base_url = "https://api.elevenlabs.io"
    overage: bool

    @clean_traceback
    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        account: str | None = None,
        overage: bool = True,
        extra_credits: Amount = 0,
        topup_step: Amount | None = None,
        trust_env: bool = False,
    ) -> None:
        self.overage = check_flag(overage, "overage")
        super().__init__(
            api_key,
            base_url=base_url,
            account=account,
            extra_credits=extra_credits,
            topup_step=topup_step,
            trust_env=trust_env,
        )

    async def fetch(self, client: "httpx.AsyncClient") -> Balance:
        """Fetch the balance once; raises BalanceUnavailable. The caller sets `as_of`."""
        fields = await self.get_fields(client, "/v1/user/subscription")
        left: Decimal | None = fields.used("character_limit") - fields.used("character_count")
        # Both are needed: the allowance may be set where the plan does not entitle to it.
        if self.overage and fields.flag("can_extend_character_limit"):
            more = fields.limit("max_credit_limit_extension", unlimited="unlimited")
            left = None if more is None or left is None else left + more
        return Balance(
            credits=left,
            unit=self.unit,
            tier=fields.text("tier"),
            renews_at=fields.moment("next_character_count_reset_unix"),
        )
